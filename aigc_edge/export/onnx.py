"""Export of a component to ONNX, checked against torch before it is kept."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import torch

import aigc_edge
from aigc_edge.bundle import external
from aigc_edge.bundle.sizes import METADATA, named
from aigc_edge.errors import AigcEdgeError
from aigc_edge.export.clean import clean
from aigc_edge.export.double import evaluate as in_dtype
from aigc_edge.export.double import in_double
from aigc_edge.export.shapes import Exportable, dynamic_shapes, example_at, sizes_of
from aigc_edge.files import atomic_file

OPSET = 20  # opset 21 and later break quantisers and bring operators that TensorRT-RTX has no kernel for
CHECK_BATCHES = (1, 2)  # not the batch of the export: 1 and another catch sizes that were baked in
ULPS = 4 * float(np.finfo(np.float32).eps)
# Times the root of the terms of the longest sum: onnxruntime adds up a normalisation's input in 16 partial sums, torch in pairs.
# Of a million terms, four channels of 512 × 512 pixels, its variance is off by 1e-5.
SUMS = float(np.finfo(np.float32).eps) / 4


Evaluate = Callable[[dict[str, npt.NDArray[Any]]], list[npt.NDArray[Any]]]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter speaks of its own affairs through warnings and a logger; neither is the user's concern."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def to_ir(component: Exportable, *, opset: int = OPSET) -> ir.Model:
    """The component as a cleaned ONNX model in memory, inputs and outputs named by its spec, dynamic in batch and size."""
    spec, sizes = component.spec, sizes_of(component)
    dynamic, traced = dynamic_shapes(component)
    example = example_at(component, 3, torch.Generator().manual_seed(0), traced)
    names = [t.name for t in spec.inputs]
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                component.module.eval(),
                example,
                input_names=names,
                output_names=[t.name for t in spec.outputs],
                dynamic_shapes=dynamic,
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter wraps whatever the module raised
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        several = " for several sizes" if sizes else ""
        raise AigcEdgeError(f"component {spec.name!r} cannot be exported to ONNX{several}: {reason[0]}") from error
    assert program is not None
    model = program.model
    for value, tensor in zip([*model.graph.inputs, *model.graph.outputs], [*spec.inputs, *spec.outputs], strict=True):
        value.shape = ir.Shape(tensor.shape)
    try:
        clean(model, sizes[0] if sizes else None)
    except onnx.shape_inference.InferenceError as error:
        what = str(error).strip().rpartition("] ")[2]
        kind = "batch and the size" if sizes else "batch"
        raise AigcEdgeError(
            f"component {spec.name!r} fits the {kind} that it was exported with alone ({what}): its code makes a number of "
            "the batch, as len(x) does; take x.shape[0]"
        ) from error
    model.producer_name, model.producer_version, model.graph.name = "aigc-edge", aigc_edge.__version__, spec.name
    model.metadata_props.update({"component": spec.name, "format": "fp32", "aigc_edge": aigc_edge.__version__})
    model.metadata_props.update({METADATA: named(sizes[0])} if sizes else {})
    return model


def _error(value: npt.NDArray[Any], exact: npt.NDArray[np.float64]) -> float:
    size = float(np.linalg.norm(exact))
    return float(np.linalg.norm(value - exact)) / (size or 1.0)


def session_of(path: str | os.PathLike[str]) -> Any:
    """An onnxruntime session on the CPU for a check."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])


def check(component: Exportable, path: str | os.PathLike[str], *, seed: int = 0) -> list[dict[str, Any]]:
    """Compare the ONNX file with torch on random inputs at two batch sizes, and every image size (see `compare`)."""
    sessions = [session_of(path)]
    return compare(component, lambda feeds: sessions[0].run(None, feeds), "in ONNX", seed=seed, done=sessions.clear)


def compare(
    component: Exportable,
    evaluate: Evaluate,
    what: str,
    *,
    seed: int = 0,
    one_timestep: bool = False,
    done: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Compare `evaluate`, the component `what`, with torch on random inputs; returns the figures of each batch and image size.

    The yardstick is the module in float64: `evaluate` may err at most twice as much as torch in float32 does, plus 4 units in the
    last place, plus what long sums lose that are taken one term after another (SUMS). With `one_timestep` all samples of a batch
    have the same. `done` is called when `evaluate` is needed no more, so that its memory need not be there beside the module in
    float64. Raises AigcEdgeError when it errs more, or gives values that are not finite.
    """
    spec, module = component.spec, component.module.eval()
    generator = torch.Generator().manual_seed(seed)
    cases = [(batch, size) for size in sizes_of(component) or (None,) for batch in CHECK_BATCHES]
    batches = [example_at(component, batch, generator, size) for batch, size in cases]
    if one_timestep:
        times = [t.role == "timestep" for t in spec.inputs]
        batches = [tuple(x[:1].repeat(len(x)) if t else x for t, x in zip(times, inputs, strict=True)) for inputs in batches]
    made = [evaluate({t.name: x.numpy() for t, x in zip(spec.inputs, inputs, strict=True)}) for inputs in batches]
    done()
    single = [in_dtype(module, inputs, torch.float32) for inputs in batches]
    with in_double(module) as double:
        exact = [in_dtype(double, inputs, torch.float64)[0] for inputs in batches]
    figures = []
    for (batch, size), value_of, exact_of, (single_of, longest) in zip(cases, made, exact, single, strict=True):
        where = f"{spec.name} {what}" + (f" at {named(size)}" if size else "")
        for tensor, value, wanted, torch_value in zip(spec.outputs, value_of, exact_of, single_of, strict=True):
            allowed = 2 * _error(torch_value, wanted) + ULPS + SUMS * longest**0.5
            reason = " (or the code makes a number of the size)" if size else ""
            found = _judged(where, tensor.name, value, wanted, allowed, reason)
            figures.append({"output": tensor.name, "batch": batch} | ({"size": list(size)} if size else {}) | found)
    return figures


def _judged(
    what: str, name: str, value: npt.NDArray[Any], wanted: npt.NDArray[np.float64], allowed: float, reason: str
) -> dict[str, float]:
    if value.shape != wanted.shape:
        raise AigcEdgeError(f"{what} gives {name} of shape {value.shape}, torch {wanted.shape}: not kept")
    error = _error(value, wanted)
    if not error <= allowed:  # written so that NaN fails
        raise AigcEdgeError(
            f"{what} is off by {error:.2g} (relative L2 of {name}, batch {len(value)}); {allowed:.2g} is what rounding explains: "
            f"the exporter got an operation wrong{reason}, the file was not kept"
        )
    return {"max_abs": float(np.abs(value - wanted).max()), "relative_l2": error, "allowed": allowed}


def export_component(
    component: Exportable,
    path: str | os.PathLike[str],
    *,
    opset: int = OPSET,
    seed: int = 0,
) -> dict[str, Any]:
    """Write the component as ONNX (float32, dynamic batch) to `path` and return the figures of its check against torch.

    Same weights, same bytes. Weights beyond `external.ABOVE` bytes go to `path`.data beside it. Nothing is left at `path` when
    the export or the check fails; raises AigcEdgeError with the reason.
    """
    path = Path(path)
    model = to_ir(component, opset=opset)
    with saved(model, path) as part:
        figures = check(component, part, seed=seed)
    return {
        "component": component.spec.name,
        "opset": opset,
        "nodes": len(list(model.graph)),
        "bytes": sum(file.stat().st_size for file in (path, _data(path)) if file.exists()),
        "checks": figures,
    }


def _data(path: Path) -> Path:
    return path.with_name(path.name + ".data")


@contextlib.contextmanager
def saved(model: ir.Model, path: Path) -> Iterator[Path]:
    """Write `model` to the file that is yielded, to be checked; it becomes `path` when the block ends well, and goes otherwise.

    Weights beyond `external.ABOVE` bytes go to `path`.data beside it.
    """
    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    data, apart = _data(path), size > external.ABOVE
    if apart:
        path.unlink(missing_ok=True)  # its data is about to change: a reader must not find the one without the other
    try:
        with atomic_file(path) as part:
            if not apart:
                ir.external_data.load_to_model(model)  # weights that it has in a file of another model
            ir.save(model, part, external_data=data.name if apart else None)
            del model  # of which the caller may hold no other: the check takes memory of its own
            yield part
    finally:
        if not (apart and path.exists()):
            data.unlink(missing_ok=True)
