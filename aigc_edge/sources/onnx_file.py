"""An ONNX file as a source: roles of inputs are inferred, and what the file does not specify is an option."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from aigc_edge.bundle.sizes import Dim, Size, at, named, sides
from aigc_edge.bundle.spec import BATCH, ComponentSpec, Role, TensorSpec
from aigc_edge.diffusion import resolve
from aigc_edge.errors import AigcEdgeError, first_line
from aigc_edge.files import sha256_of
from aigc_edge.sources.base import SOURCES, Source, SourceComponent, SourceOptions, sample_inputs
from aigc_edge.sources.onnx_model import (
    GraphTensor,
    adapted,
    as_ir,
    checked_model,
    engine_takes,
    files_beside,
    read_model,
    roles_of,
    scale_of,
    signature,
    with_shapes,
)

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from aigc_edge.export.onnx import Evaluate

BATCHES = (1, 4)  # a batch must return the same results as its samples one by one
TOLERANCE = 2e-5  # relative L2: the order of summation depends on the batch size
IMAGE = 3  # dimensions without the batch
MAX_TIME = 999.0  # of the random timesteps for verification


@SOURCES.register("onnx")
class OnnxSource(Source):
    """One network in an ONNX file: a denoiser with its schedule, or a one-step generator."""

    family = "onnx"

    def __init__(self, path: Path, options: SourceOptions) -> None:
        options.refuse("an ONNX file", "prompts")
        if options.role is None:
            raise AigcEdgeError(f"{path.name} was given without --role: choose denoiser (evaluated each step) or decoder (once)")
        self._path, self._options, self.name, self.images = path, options, path.stem, options.data
        self.schedule = options.denoiser_schedule()
        model = checked_model(path)
        inputs, outputs = signature(model, path)
        if not any(tensor.sized for tensor in inputs.values()):
            options.refuse("an ONNX file of one size", "size")
        if self.schedule is not None:
            resolve(self.schedule)  # raises for an invalid schedule
        roles = roles_of(inputs, options.role, options.inputs, path)
        conditions = [name for name, role in roles.items() if role == "condition"]
        if conditions:
            raise AigcEdgeError(
                f"{path.name} takes {', '.join(conditions)}, which a single ONNX file does not describe: compile a diffusers "
                "folder, or a Generator with conditions"
            )
        if "class" in roles.values() and not options.classes:
            raise AigcEdgeError(f"{path.name} takes a class: set the number of classes with --classes")
        self.num_classes = options.classes or 0
        ((output, tensor),) = outputs.items()
        sample = next(name for name, role in roles.items() if role == "sample")
        sized_shapes = self._sized(model, inputs[sample], tensor) if inputs[sample].sized else {}
        shapes = sized_shapes | {name: each.sizes(path) for name, each in (inputs | outputs).items() if name not in sized_shapes}
        default = options.size if sized_shapes else None
        shape, input_shape = (tuple(map(int, at(shapes[name], default))) for name in (output, sample))
        if len(shape) != IMAGE:
            raise AigcEdgeError(f"{path.name} returns {[BATCH, *shape]}: images must be [N, C, H, W]")
        if self.schedule is not None and shape != input_shape:
            raise AigcEdgeError(
                f"{path.name} takes {list(input_shape)} but returns {list(shape)}: a denoiser must preserve the shape"
            )
        self.sample_shape, self.output_shape = input_shape, (shape[0], shape[1], shape[2])
        input_specs = tuple(
            TensorSpec(name, role, "int64" if role == "class" else "float32", (BATCH, *shapes[name]))
            for name, role in roles.items()
        )
        spec = ComponentSpec(options.role, input_specs, (TensorSpec(output, "sample", "float32", (BATCH, *shapes[output])),))
        self.sizes = options.sizes if sized_shapes and options.further_sizes else ()
        self.inputs = sample_inputs(options.calibration, spec.at(self.sizes[0] if self.sizes else None), path.name)
        self._part = OnnxComponent(spec, path, roles, self.num_classes, self.sizes)

    def _sized(self, model: onnx.ModelProto, sample: GraphTensor, output: GraphTensor) -> dict[str, tuple[Dim, ...]]:
        """Shapes of the sample and the image with dynamic height and width, at the requested sizes."""
        path, sizes = self._path, self._options.sizes
        if not sizes:
            raise AigcEdgeError(
                f"{sample.name!r} of {path.name} has a dynamic dimension other than the batch: set it with --size HxW"
            )
        scale = scale_of(model, sample.name, path)
        unsupported = [size for size in sizes if any(side % scale for side in size)]
        if unsupported:
            raise AigcEdgeError(f"the size {named(unsupported[0])} does not fit {path.name}: both must be multiples of {scale}")
        if not output.shape[1:2] or not output.shape[1]:
            raise AigcEdgeError(f"{path.name} does not specify the number of channels of its image: export it again")
        input_shape, output_shape = (sample.shape[1] or 0, *sides(sizes, scale)), (output.shape[1], *sides(sizes))
        return {sample.name: input_shape, output.name: output_shape}

    @classmethod
    def claims(cls, text: str) -> bool:
        return text.lower().endswith(".onnx")

    @classmethod
    def open(cls, text: str, options: SourceOptions) -> OnnxSource:
        if not Path(text).is_file():
            raise AigcEdgeError(f"the ONNX file {text} does not exist: give an existing one")
        return cls(Path(text), options)

    def components(self) -> list[SourceComponent]:
        return [self._part]

    def identity(self, part: str) -> str:
        digest = hashlib.sha256(repr(self._options).encode())
        for file in (self._path, *files_beside(self._path)):
            digest.update(sha256_of(file).encode())
        return digest.hexdigest()

    def provenance(self) -> dict[str, Any]:
        return {"source": self._path.name}


class OnnxComponent(SourceComponent):
    """A network that is already ONNX: it has no torch module and is compared with itself."""

    def __init__(
        self, spec: ComponentSpec, path: Path, roles: Mapping[str, Role], classes: int, sizes: Sequence[Size] = ()
    ) -> None:
        super().__init__(spec, self._refuse, sizes=sizes)
        self._path, self._roles, self._classes = path, roles, classes

    def model(self) -> onnx.ModelProto:
        """The network with the runtime's signature, read again from the file; external weights are not loaded."""
        return with_shapes(adapted(read_model(self._path), self._roles), self.spec, self.sizes)

    def _refuse(self) -> NoReturn:
        raise AigcEdgeError(f"{self._path.name} is an ONNX file: there is no torch module of it")

    def write(self, path: Path) -> dict[str, Any]:
        """Write the file with the runtime's signature, simplified if possible; raises AigcEdgeError where batches fail."""
        import onnx

        from aigc_edge.export.onnx import saved

        path.parent.mkdir(parents=True, exist_ok=True)
        with saved(self._cleaned(), path) as part:
            nodes = len(onnx.load(part, load_external_data=False).graph.node)
            session = engine_takes(part, self._path)
            error = max(self._batches_agree(lambda feeds: session.run(None, feeds), size) for size in self.sizes or (None,))
        checks = [{"batches": list(BATCHES), "relative_l2": error}]
        return {"component": self.spec.name, "nodes": nodes, "checks": checks}

    def _cleaned(self) -> ir.Model:
        from aigc_edge.export.clean import clean
        from aigc_edge.export.fold import fold_constants

        model = as_ir(self.model(), self._path)
        fold_constants(model, self._path.name)
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
                inputs[tensor.name] = np.full(batch, rng.uniform(0, MAX_TIME), np.float32)  # all samples share a timestep
            else:
                inputs[tensor.name] = rng.standard_normal(shape, dtype=np.float32)
        return inputs

    def _batches_agree(self, evaluate: Evaluate, size: Size | None) -> float:
        inputs = self._inputs(BATCHES[1], np.random.default_rng(0), size)
        try:
            (together,) = evaluate(inputs)
            alone = [evaluate({name: value[i : i + 1] for name, value in inputs.items()})[0] for i in range(BATCHES[1])]
        except Exception as error:  # onnxruntime's own exceptions
            where = f" at {named(size)}" if size else ""
            raise AigcEdgeError(
                f"{self._path.name} cannot be evaluated in batches of 1 and {BATCHES[1]}{where} ({first_line(error)}): export it "
                "with a dynamic batch"
            ) from error
        shape = (BATCHES[1], *self.spec.outputs[0].at(size).shape[1:])
        if together.shape != shape:
            raise AigcEdgeError(f"{self._path.name} returns {list(together.shape)} instead of {list(shape)}: export it again")
        return self._same(together, np.concatenate(alone), f"in a batch of {BATCHES[1]}")

    def _same(self, value: npt.NDArray[Any], reference: npt.NDArray[Any], what: str) -> float:
        if value.shape != reference.shape or not np.isfinite(value).all():
            state = "values that are not finite" if value.shape == reference.shape else f"{list(value.shape)}"
            raise AigcEdgeError(f"{self._path.name} returns {state} {what}: export it again, with a dynamic batch")
        error = float(np.linalg.norm(value - reference) / (np.linalg.norm(reference) or 1.0))
        if not error <= TOLERANCE:
            raise AigcEdgeError(
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
