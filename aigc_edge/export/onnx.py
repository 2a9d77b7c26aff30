"""Export of a component to ONNX, verified against torch."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

import aigc_edge
from aigc_edge.bundle import external
from aigc_edge.bundle.sizes import METADATA, named
from aigc_edge.errors import AigcEdgeError, first_line
from aigc_edge.export.adapters import fold_adapters
from aigc_edge.export.clean import clean
from aigc_edge.export.double import evaluate as in_dtype
from aigc_edge.export.double import in_double
from aigc_edge.export.failure import failure_of, silenced
from aigc_edge.export.fold import fold_constants
from aigc_edge.export.session import session_of
from aigc_edge.export.shapes import Exportable, dynamic_shapes, example_at, sizes_of
from aigc_edge.files import atomic_file

OPSET = 20  # opset 21 and later break quantisers and add operators that TensorRT-RTX does not support
CHECK_BATCHES = (1, 2)  # different from the batch of the export, to catch hard-coded sizes
ULPS = 4 * float(np.finfo(np.float32).eps)
# Times the square root of the length of the longest sum: in normalisations onnxruntime uses 16 partial sums, torch pairwise
# summation. For a million terms (four channels of 512 × 512 pixels) the variance is off by 1e-5.
SUMS = float(np.finfo(np.float32).eps) / 4
LARGEST_ERROR = 1e-3  # of a network that magnifies rounding: beyond, no check would mean anything
APART = 0.05  # relative L2: a module that draws no random numbers differs by less between float32 and float64, if it is stable
REPEATS = 100  # evaluations of a module that may draw random numbers: one of 100 numbers that is another is seen mostly
SAME = 1e-5  # relative L2 in float64: evaluations of a sample differ by less, whatever else is in its batch

Evaluate = Callable[[dict[str, npt.NDArray[Any]]], list[npt.NDArray[Any]]]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the exporter's internal warnings and log messages."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def to_ir(component: Exportable) -> ir.Model:
    """The component as a cleaned ONNX model in memory, inputs and outputs named by its spec, dynamic in batch and size."""
    spec, sizes = component.spec, sizes_of(component)
    dynamic, traced = dynamic_shapes(component)
    example = example_at(component, 3, torch.Generator().manual_seed(0), traced)
    names = [t.name for t in spec.inputs]
    try:
        with quiet(), silenced(), torch.no_grad():
            program = torch.onnx.export(
                component.module.eval(),
                example,
                input_names=names,
                output_names=[t.name for t in spec.outputs],
                dynamic_shapes=dynamic,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter wraps the module's exception
        several = " for several sizes" if sizes else ""
        raise AigcEdgeError(f"component {spec.name!r} cannot be exported to ONNX{several}: {failure_of(error)}") from error
    assert program is not None
    model = program.model
    for value, tensor in zip([*model.graph.inputs, *model.graph.outputs], [*spec.inputs, *spec.outputs], strict=True):
        value.shape = ir.Shape(tensor.shape)
    fold_constants(model, f"component {spec.name!r}")
    fold_adapters(model)
    try:
        clean(model, sizes[0] if sizes else None)
    except onnx.shape_inference.InferenceError as error:
        what = str(error).strip().rpartition("] ")[2]
        kind = "batch and the size" if sizes else "batch"
        raise AigcEdgeError(
            f"component {spec.name!r} only works with the {kind} that it was exported with ({what}): its code converts the "
            "batch size to a number, as len(x) does; use x.shape[0]"
        ) from error
    model.producer_name, model.producer_version, model.graph.name = "aigc-edge", aigc_edge.__version__, spec.name
    model.metadata_props.update({"component": spec.name, "format": "fp32", "aigc_edge": aigc_edge.__version__})
    model.metadata_props.update({METADATA: named(sizes[0])} if sizes else {})
    return model


def _error(value: npt.NDArray[Any], exact: npt.NDArray[np.float64]) -> float:
    size = float(np.linalg.norm(exact))
    return float(np.linalg.norm(value - exact)) / (size or 1.0)


def check(component: Exportable, path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Compare the ONNX file with torch on random inputs at two batch sizes and every image size (see `compare`)."""
    sessions = [session_of(path)]
    return compare(component, lambda feeds: sessions[0].run(None, feeds), "in ONNX", done=sessions.clear)


def compare(
    component: Exportable,
    evaluate: Evaluate,
    what: str,
    *,
    one_timestep: bool = False,
    done: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Compare `evaluate`, the component `what`, with torch on random inputs; returns the errors for each batch and image size.

    The reference is the module in float64: the error of `evaluate` may be at most twice that of torch in float32, plus 4 ULPs,
    plus the rounding error of long sequential sums (SUMS), and in any case LARGEST_ERROR. A module that draws random numbers, or
    whose samples depend on each other, is refused. With `one_timestep` all samples of a batch share a timestep. `done` is
    called when `evaluate` is no longer needed, so that its memory can be freed before the module is converted to float64. Raises
    AigcEdgeError when the error is larger or values are not finite.
    """
    spec, module = component.spec, component.module.eval()
    generator = torch.Generator().manual_seed(0)
    cases = [(batch, size) for size in sizes_of(component) or (None,) for batch in CHECK_BATCHES]
    whole = {size: example_at(component, max(CHECK_BATCHES), generator, size) for _, size in cases}
    batches = [tuple(x[:batch] for x in whole[size]) for batch, size in cases]
    if one_timestep:
        times = [t.role == "timestep" for t in spec.inputs]
        batches = [tuple(x[:1].repeat(len(x)) if t else x for t, x in zip(times, inputs, strict=True)) for inputs in batches]
    results = [evaluate({t.name: x.numpy() for t, x in zip(spec.inputs, inputs, strict=True)}) for inputs in batches]
    done()
    before = drawn()
    try:
        in_single = [in_dtype(module, inputs, torch.float32) for inputs in batches]
    except Exception as error:  # the module's own
        counts, reason = " or ".join(map(str, CHECK_BATCHES)), first_line(error)
        raise AigcEdgeError(
            f"component {spec.name!r} fails on batches of {counts} samples ({reason}): it must accept any number"
        ) from error
    drew = drawn() != before
    with in_double(module) as double:
        in_double_values = [in_dtype(double, inputs, torch.float64)[0] for inputs in batches]
        alike = _samples_alike(component, double, batches, in_double_values)
        apart = [_apart(single, exact) for (single, _), exact in zip(in_single, in_double_values, strict=True)]
        if drew or any(apart):
            _refuse_random(component, double, batches[apart.index(True) if any(apart) else 0])
    figures = []
    for (batch, size), value_of, exact_of, (single_of, longest) in zip(cases, results, in_double_values, in_single, strict=True):
        where = f"{spec.name} {what}" + (f" at {named(size)}" if size else "")
        for tensor, value, reference, torch_value in zip(spec.outputs, value_of, exact_of, single_of, strict=True):
            allowed = min(2 * _error(torch_value, reference) + ULPS + SUMS * longest**0.5, LARGEST_ERROR)
            reason = " (or the code converts the size to a number)" if size else ""
            deviation = _check_deviation(where, tensor.name, value, reference, allowed, reason)
            figures.append({"output": tensor.name, "batch": batch} | ({"size": list(size)} if size else {}) | deviation)
    if not alike:
        raise AigcEdgeError(
            f"component {spec.name!r} returns other values for a sample alone than in a batch: its samples depend on each other, "
            "as by batch statistics; use fixed ones"
        )
    return figures


def _samples_alike(
    component: Exportable, module: nn.Module, batches: list[tuple[Tensor, ...]], values: list[list[npt.NDArray[np.float64]]]
) -> bool:
    """Whether a sample has the same `values` (in float64) in each two batches that begin with it.

    Raises AigcEdgeError where they differ because the module draws random numbers.
    """
    for at in range(0, len(batches), len(CHECK_BATCHES)):
        alone, together = values[at : at + len(CHECK_BATCHES)]
        if not _same(alone, [value[: CHECK_BATCHES[0]] for value in together]):
            if _same(alone, in_dtype(module, batches[at], torch.float64)[0]):
                return False
            raise _random(component)
    return True


def drawn() -> tuple[Any, ...]:
    """The states of the generators of random numbers that a module's code can draw from without one of its own."""
    key, place = np.random.get_state()[1:3]  # type: ignore[index]  # noqa: NPY002 - that of the global generator
    return random.getstate(), key.tobytes(), place, torch.get_rng_state().numpy().tobytes()


def _apart(single: list[npt.NDArray[np.float64]], exact: list[npt.NDArray[np.float64]]) -> bool:
    """Whether results in float32 and float64 differ by more than rounding explains in any network that can be checked."""
    return any(a.shape != b.shape or _error(a, b) > APART for a, b in zip(single, exact, strict=True))


def _refuse_random(component: Exportable, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Raise AigcEdgeError where repeated evaluations of the same inputs differ; code may draw numbers without using them."""
    first = in_dtype(module, inputs, torch.float64)[0]
    for _ in range(REPEATS):
        if not _same(first, in_dtype(module, inputs, torch.float64)[0]):
            raise _random(component)


def _random(component: Exportable) -> AigcEdgeError:
    return AigcEdgeError(
        f"component {component.spec.name!r} draws random numbers (two evaluations of the same inputs differ): make them an input"
    )


def _same(values: list[npt.NDArray[np.float64]], others: list[npt.NDArray[np.float64]]) -> bool:
    pairs = [(a, b) for a, b in zip(values, others, strict=True) if np.isfinite(a).all()]  # what is not is another error
    return all(a.shape == b.shape and _error(b, a) <= SAME for a, b in pairs)


def _check_deviation(
    what: str, name: str, value: npt.NDArray[Any], reference: npt.NDArray[np.float64], allowed: float, reason: str
) -> dict[str, float]:
    if value.shape != reference.shape:
        raise AigcEdgeError(f"{what} returns {name} of shape {value.shape}, but torch {reference.shape}: the file was discarded")
    error = _error(value, reference)
    if not error <= allowed:  # written so that NaN fails
        raise AigcEdgeError(
            f"{what} is off by {error:.2g} (relative L2 of {name}, batch {len(value)}); rounding explains {allowed:.2g}: "
            f"the exporter translated an operation incorrectly{reason}; the file was discarded"
        )
    return {"max_abs": float(np.abs(value - reference).max()), "relative_l2": error, "allowed": allowed}


def export_component(component: Exportable, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Write the component as ONNX (float32, dynamic batch) to `path` and return the results of its verification.

    Deterministic: the same weights give the same bytes. Weights above `external.ABOVE` bytes are stored in `path`.data beside it.
    No file is left when the export or the verification fails; raises AigcEdgeError with the reason.
    """
    path = Path(path)
    model = to_ir(component)
    with saved(model, path) as part:
        figures = check(component, part)
    return {
        "component": component.spec.name,
        "opset": OPSET,
        "nodes": len(list(model.graph)),
        "bytes": sum(file.stat().st_size for file in (path, _data(path)) if file.exists()),
        "checks": figures,
    }


def _data(path: Path) -> Path:
    return path.with_name(path.name + ".data")


@contextlib.contextmanager
def saved(model: ir.Model, path: Path) -> Iterator[Path]:
    """Write `model` to the yielded temporary file for verification; it becomes `path` on success and is removed otherwise.

    Weights above `external.ABOVE` bytes are stored in `path`.data beside it.
    """
    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    data, apart = _data(path), size > external.ABOVE
    if apart:
        path.unlink(missing_ok=True)  # its data is about to change: never leave a model without its data
    try:
        with atomic_file(path) as part:
            if not apart:
                ir.external_data.load_to_model(model)  # weights stored in another model's file
            ir.save(model, part, external_data=data.name if apart else None)
            del model  # free it before verification unless the caller holds a reference
            yield part
    finally:
        if not (apart and path.exists()):
            data.unlink(missing_ok=True)
