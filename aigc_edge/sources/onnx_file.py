"""An ONNX file as a source: roles of inputs are inferred, and what the file does not specify is an option."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aigc_edge.bundle.sizes import Dim, at, named, sides
from aigc_edge.bundle.spec import BATCH, ComponentSpec, TensorSpec
from aigc_edge.diffusion import resolve
from aigc_edge.errors import AigcEdgeError
from aigc_edge.export.layout import channels_last
from aigc_edge.files import sha256_of
from aigc_edge.sources.base import SOURCES, Source, SourceComponent, SourceOptions, sample_inputs
from aigc_edge.sources.onnx_adapting import Adaptation, adapted
from aigc_edge.sources.onnx_component import OnnxComponent
from aigc_edge.sources.onnx_model import (
    GraphTensor,
    check_weights,
    files_beside,
    parsed_model,
    plain_model,
    result_of,
    roles_of,
    scale_of,
    tensors_of,
)

if TYPE_CHECKING:
    import onnx

IMAGE = 3  # dimensions without the batch


@SOURCES.register("onnx")
class OnnxSource(Source):
    """One network in an ONNX file: a denoiser with its schedule, or a one-step generator."""

    family = "onnx"

    def __init__(self, path: Path, options: SourceOptions) -> None:
        options.refuse("an ONNX file", "prompts")
        if options.role is None:
            raise AigcEdgeError(f"{path.name} was given without --role: choose denoiser (evaluated each step) or decoder (once)")
        self._path, self._options, self.name, self.images = path, options, path.stem, options.data
        self.output_range = options.output_range or self.output_range
        self.schedule = options.denoiser_schedule()
        model = parsed_model(path)
        adaptation = self._adaptation(*tensors_of(model), options.role)
        roles, output = adaptation.roles, adaptation.output
        one_sample = self._one_sample(tensors_of(model)[0], roles)
        model = adapted(plain_model(model, path), adaptation)
        inputs, outputs = tensors_of(model)
        sample = next(name for name, role in roles.items() if role == "sample")
        if not inputs[sample].sized:
            options.refuse("an ONNX file of one size", "size")
        if self.schedule is not None:
            resolve(self.schedule)  # raises for an invalid schedule
        sized_shapes = self._sized(model, inputs[sample], outputs[output]) if inputs[sample].sized else {}
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
        check_weights(model, path)
        self.conditions = {name: _fitting(name, self.conditions[name], shapes[name]) for name in self.conditions}
        self.sizes = options.sizes if sized_shapes and options.further_sizes else ()
        at_default = spec.at(self.sizes[0] if self.sizes else None)
        self.inputs = sample_inputs(options.calibration, at_default, path.name, self.num_classes)
        self._part = OnnxComponent(
            spec,
            path,
            adaptation,
            sizes=self.sizes,
            times=self.timesteps() if self.schedule is not None else (),
            classes=self.num_classes,
            conditions=self.conditions,
            one_sample=one_sample,
            inputs=self.inputs,
        )

    def _adaptation(self, inputs: Mapping[str, GraphTensor], outputs: Mapping[str, GraphTensor], role: str) -> Adaptation:
        """Roles, constants, the result and its layout; sets the number of classes and the examples of conditions."""
        path, options = self._path, self._options
        result = result_of(outputs, options.result, path)
        declared = dict(options.inputs)
        constants = {name: number for name, value in declared.items() if (number := _number(value)) is not None}
        self.conditions = {name: _examples(file) for name, file in declared.items() if file.endswith(".npy")}
        declared |= dict.fromkeys(self.conditions, "condition")
        missing = [name for name in constants if name not in inputs]
        if missing:
            raise AigcEdgeError(f"{path.name} has no input {missing[0]!r}: it has {', '.join(inputs)}")
        variable = {name: tensor for name, tensor in inputs.items() if name not in constants}
        roles = roles_of(variable, role, {name: role for name, role in declared.items() if name not in constants}, path)
        conditions = [name for name, role in roles.items() if role == "condition"]
        if conditions and role == "decoder":
            raise AigcEdgeError(
                f"{path.name} takes {', '.join(conditions)} beside the sample, as only a denoiser does: set a constant, such as "
                f"--input {conditions[0]}=0.5, or compile it with --role denoiser"
            )
        unknown = [name for name in conditions if name not in self.conditions]
        if unknown:
            raise AigcEdgeError(
                f"{path.name} takes {', '.join(unknown)}, which an ONNX file does not describe: give examples [k, ...] as "
                f"--input {unknown[0]}=FILE.npy, or a constant such as --input {unknown[0]}=1.0"
            )
        if "class" in roles.values() and not options.classes:
            raise AigcEdgeError(f"{path.name} takes a class: set the number of classes with --classes")
        if options.classes and "class" not in roles.values():
            raise AigcEdgeError(f"--classes was given, but {path.name} takes no class: leave it out, or name it with --input")
        self.num_classes = options.classes or 0
        sample = next(name for name, role in roles.items() if role == "sample")
        last = channels_last([inputs[sample].shape, result.shape], options.layout)
        names = frozenset(name for name, is_last in zip((sample, result.name), last, strict=True) if is_last)
        return Adaptation(roles, result.name, constants, names)

    def _one_sample(self, inputs: Mapping[str, GraphTensor], roles: Mapping[str, str]) -> bool:
        """Whether the file takes one sample only; raises AigcEdgeError for any other fixed batch."""
        shapes = [inputs[name].shape for name, role in roles.items() if role in ("sample", "condition")]
        batches = {shape[0] for shape in shapes if shape}
        for batch in batches - {None, 1}:
            raise AigcEdgeError(
                f"{self._path.name} takes batches of {batch} only: export it with a dynamic batch, or for one sample"
            )
        return 1 in batches

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
        examples = [Path(value) for value in self._options.inputs.values() if value.endswith(".npy")]
        for file in (self._path, *files_beside(self._path), *examples):
            digest.update(sha256_of(file).encode())
        return digest.hexdigest()

    def provenance(self) -> dict[str, Any]:
        return {"source": self._path.name}


def _number(value: str) -> float | None:
    with contextlib.suppress(ValueError):
        return float(value)
    return None


def _examples(file: str) -> npt.NDArray[np.float32]:
    """Examples [k, ...] of a condition, from a .npy file."""
    try:
        values = np.load(file, allow_pickle=False)
        array = np.asarray(values, np.float32)
    except (OSError, ValueError, TypeError) as error:
        raise AigcEdgeError(f"{file} cannot be read as an array ({error}): write float32 examples with numpy.save") from error
    if array.ndim < 1 or not len(array) or not np.isfinite(array).all():
        raise AigcEdgeError(f"{file} has the shape {list(array.shape)}: give finite examples [k, ...], k of at least 1")
    return array


def _fitting(name: str, examples: npt.NDArray[np.float32], shape: tuple[Dim, ...]) -> npt.NDArray[np.float32]:
    if examples.shape[1:] != tuple(shape):
        raise AigcEdgeError(f"the examples of {name} have the shape {list(examples.shape)}: they must be {['k', *shape]}")
    return examples
