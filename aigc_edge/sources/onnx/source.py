"""An ONNX file as a source: roles of inputs are inferred, and what the file does not specify is an option."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aigc_edge.bundle.sizes import Dim, at, named, sides
from aigc_edge.bundle.spec import BATCH, ComponentSpec, TensorSpec
from aigc_edge.diffusion import resolve
from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import sha256_of
from aigc_edge.sources.base import SOURCES, Source, SourceComponent, SourceOptions, sample_inputs
from aigc_edge.sources.onnx.signature import signature_of
from aigc_edge.sources.onnx.tensors import GraphTensor, tensors_of

if TYPE_CHECKING:
    import onnx

IMAGE = 3  # dimensions without the batch
QUICK = 2**28  # bytes that are read in a fraction of a second


@SOURCES.register("onnx")
class OnnxSource(Source):
    """One network in an ONNX file: a denoiser with its schedule, or a one-step generator."""

    family = "onnx"

    def __init__(self, path: Path, options: SourceOptions) -> None:
        signature = signature_of(path, options)
        from aigc_edge.sources.onnx.adapting import adapted  # here and below: slow to import, and not needed to refuse a file
        from aigc_edge.sources.onnx.component import OnnxComponent
        from aigc_edge.sources.onnx.model import check_weights, checked_model, plain_model

        assert options.role is not None
        self._path, self._options, self.name, self.images = path, options, path.stem, options.data
        self.output_range = options.output_range or self.output_range
        self.schedule = options.denoiser_schedule()
        self.conditions, self.num_classes = signature.conditions, signature.num_classes
        adaptation = signature.adaptation
        roles, output = adaptation.roles, adaptation.output
        model = adapted(plain_model(checked_model(signature.model, path), path), adaptation)
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
            one_sample=signature.one_sample,
            inputs=self.inputs,
        )

    def _sized(self, model: onnx.ModelProto, sample: GraphTensor, output: GraphTensor) -> dict[str, tuple[Dim, ...]]:
        """Shapes of the sample and the image with dynamic height and width, at the requested sizes."""
        from aigc_edge.sources.onnx.model import scale_of

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
        return cls(_existing(text), options)

    @classmethod
    def check(cls, text: str, options: SourceOptions) -> None:
        file = _existing(text)
        if file.stat().st_size <= QUICK:
            signature_of(file, options)
        schedule = options.denoiser_schedule()
        if schedule is not None:
            resolve(schedule)

    def components(self) -> list[SourceComponent]:
        return [self._part]

    def identity(self, part: str) -> str:
        from aigc_edge.sources.onnx.model import files_beside

        digest = hashlib.sha256(repr(self._options).encode())
        examples = [Path(value) for value in self._options.inputs.values() if value.endswith(".npy")]
        for file in (self._path, *files_beside(self._path), *examples):
            digest.update(sha256_of(file).encode())
        return digest.hexdigest()

    def provenance(self) -> dict[str, Any]:
        return {"source": self._path.name}


def _existing(text: str) -> Path:
    if not Path(text).is_file():
        raise AigcEdgeError(f"the ONNX file {text} does not exist: give an existing one")
    return Path(text)


def _fitting(name: str, examples: npt.NDArray[np.float32], shape: tuple[Dim, ...]) -> npt.NDArray[np.float32]:
    if examples.shape[1:] != tuple(shape):
        raise AigcEdgeError(f"the examples of {name} have the shape {list(examples.shape)}: they must be {['k', *shape]}")
    return examples
