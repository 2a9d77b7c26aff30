"""A component that is an ONNX file already: adapted to the runtime, checked in batches and against itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from aigc_edge.bundle.inputs import SampleInputs
from aigc_edge.bundle.sizes import Size, named
from aigc_edge.bundle.spec import ComponentSpec
from aigc_edge.errors import AigcEdgeError, first_line
from aigc_edge.sources.base import SourceComponent
from aigc_edge.sources.inputs import NORMAL
from aigc_edge.sources.onnx.adapting import Adaptation, adapted, sample_by_sample, with_free_batch
from aigc_edge.sources.onnx.model import SMALL, as_ir, engine_takes, read_model, with_shapes

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from aigc_edge.export.onnx import Evaluate

BATCHES = (1, 4)  # a batch must return the same results as its samples one by one
TOLERANCE = 2e-5  # relative L2: the order of summation depends on the batch size


class BatchError(AigcEdgeError):
    """A network does not return for a batch what it returns for its samples one by one."""


class OnnxComponent(SourceComponent):
    """The network in the file `path`; without a torch module.

    `times` are the timesteps that it is checked at, `classes` the number of class indices and `conditions` examples [k, ...] of
    conditions by name; the samples of a network of one evaluation are those of `inputs`. A file for `one_sample` alone is changed
    to take batches, or evaluated sample by sample.
    """

    def __init__(
        self,
        spec: ComponentSpec,
        path: Path,
        adaptation: Adaptation,
        *,
        sizes: Sequence[Size] = (),
        times: Sequence[float] = (),
        classes: int = 0,
        conditions: Mapping[str, npt.NDArray[np.float32]] | None = None,
        one_sample: bool = False,
        inputs: SampleInputs = NORMAL,
    ) -> None:
        super().__init__(spec, self._refuse, sizes=sizes, inputs=inputs)
        self._path, self._adaptation, self._one_sample = path, adaptation, one_sample
        self._times, self._classes, self._conditions = tuple(times), classes, conditions or {}

    def _refuse(self) -> NoReturn:
        raise AigcEdgeError(f"{self._path.name} is an ONNX file: there is no torch module of it")

    def model(self) -> onnx.ModelProto:
        """The network with the runtime's signature, read again from the file; external weights are not loaded."""
        return with_shapes(adapted(read_model(self._path), self._adaptation), self.spec, self.sizes)

    def outline(self) -> onnx.ModelProto:
        """The network as it is compiled, constants folded, without the values of its large weights."""
        import onnx_ir as ir

        model = self._cleaned(self.model())
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.size > SMALL:
                shape = ir.Shape(tensor.shape.numpy())
                value.const_value = ir.ExternalTensor("-", 0, tensor.nbytes, tensor.dtype, shape=shape, name=str(value.name))
        return ir.to_proto(model)

    def write(self, path: Path) -> dict[str, Any]:
        """Write the file with the runtime's signature, simplified if possible; raises AigcEdgeError where batches fail."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if self._one_sample:
            for change in (lambda model: model, with_free_batch):
                try:
                    return self._write(path, change(self.model()))
                except BatchError:
                    continue
            return self._write(path, sample_by_sample(self.model()))
        return self._write(path, self.model())

    def _write(self, path: Path, model: onnx.ModelProto) -> dict[str, Any]:
        import onnx

        from aigc_edge.export.onnx import saved

        with saved(self._cleaned(model), path) as part:
            nodes = len(onnx.load(part, load_external_data=False).graph.node)
            session = engine_takes(part, self._path)
            error = max(self._batches_agree(lambda feeds: session.run(None, feeds), size) for size in self.sizes or (None,))
        checks = [{"batches": list(BATCHES), "relative_l2": error}]
        return {"component": self.spec.name, "nodes": nodes, "checks": checks}

    def _cleaned(self, proto: onnx.ModelProto) -> ir.Model:
        from aigc_edge.export.adapters import fold_adapters
        from aigc_edge.export.clean import clean
        from aigc_edge.export.fold import fold_constants

        model = as_ir(proto, self._path)
        fold_constants(model, self._path.name)
        fold_adapters(model)
        simplified = model.clone()
        try:
            clean(simplified, self.sizes[0] if self.sizes else None)
        except Exception:  # shape inference may fail: the unsimplified graph is still correct
            return model
        return simplified

    def _inputs(self, batch: int, rng: np.random.Generator, size: Size | None) -> dict[str, npt.NDArray[Any]]:
        inputs: dict[str, npt.NDArray[Any]] = {}
        for tensor in self.spec.at(size).inputs:
            shape = (batch, *(int(size) for size in tensor.shape[1:]))
            if tensor.role == "class":
                inputs[tensor.name] = rng.integers(0, self._classes, batch)
            elif tensor.role == "timestep":
                inputs[tensor.name] = np.full(batch, rng.choice(self._times), np.float32)  # all samples share a timestep
            elif tensor.role == "condition":
                examples = self._conditions[tensor.name]
                inputs[tensor.name] = examples[rng.integers(0, len(examples), batch)]
            else:
                inputs[tensor.name] = self.inputs.example(tensor.name, rng.standard_normal(shape, dtype=np.float32))
        return inputs

    def _batches_agree(self, evaluate: Evaluate, size: Size | None) -> float:
        inputs = self._inputs(BATCHES[1], np.random.default_rng(0), size)
        try:
            (together,) = evaluate(inputs)
            alone = [evaluate({name: value[i : i + 1] for name, value in inputs.items()})[0] for i in range(BATCHES[1])]
        except Exception as error:  # onnxruntime's own exceptions
            where = f" at {named(size)}" if size else ""
            raise BatchError(
                f"{self._path.name} cannot be evaluated in batches of 1 and {BATCHES[1]}{where} ({first_line(error)}): export it "
                "with a dynamic batch"
            ) from error
        shape = (BATCHES[1], *self.spec.outputs[0].at(size).shape[1:])
        if together.shape != shape:
            raise BatchError(f"{self._path.name} returns {list(together.shape)} instead of {list(shape)}: export it again")
        return self._same(together, np.concatenate(alone), f"in a batch of {BATCHES[1]}")

    def _same(self, value: npt.NDArray[Any], reference: npt.NDArray[Any], what: str) -> float:
        if value.shape != reference.shape:
            shape = list(value.shape)
            raise BatchError(f"{self._path.name} returns {shape} {what}: export it again, with a dynamic batch")
        if not np.isfinite(value).all():
            raise AigcEdgeError(
                f"{self._path.name} returns values that are not finite {what}: check its weights, the roles of its inputs and "
                "--schedule"
            )
        error = float(np.linalg.norm(value - reference) / (np.linalg.norm(reference) or 1.0))
        if not error <= TOLERANCE:
            raise BatchError(
                f"{self._path.name} returns different values {what} (relative L2 {error:.2g}, rounding explains {TOLERANCE:g}): "
                "its samples depend on each other, export it with a dynamic batch"
            )
        return error

    def compare(
        self,
        whole: Path,
        evaluate: Evaluate,
        what: str,
        *,
        one_timestep: bool = False,
        done: Callable[[], None] = lambda: None,
    ) -> list[dict[str, Any]]:
        """Compare `evaluate` with the file itself on random inputs at two batch sizes, and every image size."""
        session, rng = engine_takes(whole, self._path), np.random.default_rng(0)
        figures = []
        for size, batch in itertools.product(self.sizes or (None,), BATCHES):
            inputs = self._inputs(batch, rng, size)
            error = self._same(evaluate(inputs)[0], session.run(None, inputs)[0], what)
            figures.append({"batch": batch, "relative_l2": error, "allowed": TOLERANCE})
        done()
        return figures
