"""What must hold between the members of a manifest: the same rules as the native reader's (csrc/runtime)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from aigc_edge.bundle.component import DECODER, DENOISER, KINDS, SCHEDULE, Component, ConstantTable
from aigc_edge.bundle.sizes import Dim
from aigc_edge.bundle.spec import MAX_ELEMENTS, TensorSpec
from aigc_edge.errors import BundleError

if TYPE_CHECKING:
    from aigc_edge.bundle.manifest import FileEntry, Manifest, TextEntry

MAX_TIMESTEPS, MAX_WIDTH = 1_000_000, 2**31


def validate(manifest: Manifest) -> None:
    """Raise BundleError unless the bundle can be sampled at its default size and in its default format."""
    fixed = _at_default_size(manifest)
    low, high = manifest.output_range
    if not _float32(low) < _float32(high):
        raise BundleError("manifest.output_range must be [low, high] with low < high")
    for name, component in fixed.components.items():
        if name not in KINDS:
            raise BundleError(f"components.{name} is unknown; known are denoiser, decoder, schedule and text_encoder, _2 and _3")
        for format, files in component.formats.items():
            _require_file(manifest.files, files["file"], f"components.{name}.formats.{format}")
    denoiser, decoder, schedule = (fixed.components.get(name) for name in (DENOISER, DECODER, SCHEDULE))
    if schedule:
        _check_schedule(schedule, manifest.files)
        if not denoiser:
            raise BundleError("components.schedule gives constants, but there is no denoiser to take them")
    if denoiser:
        _check_network(denoiser, fixed.sample_shape, fixed.sample_shape, manifest.num_classes)
        _check_constants(denoiser, schedule)
    if decoder:
        _check_network(decoder, fixed.sample_shape, fixed.output_shape, manifest.num_classes)
    elif not denoiser:
        raise BundleError("manifest.components has neither a denoiser nor a decoder")
    elif fixed.sample_shape != fixed.output_shape:
        raise BundleError("manifest.output_shape must be the sample_shape: there is no decoder")
    _check_text(fixed.text_encoders, denoiser, manifest.text, manifest.files)
    for name, component in fixed.networks.items():
        if manifest.default_format not in component.formats:
            known = ", ".join(component.formats)
            raise BundleError(f"manifest.default_format is {manifest.default_format!r}, components.{name} has {known}")
    _check_programs(manifest)


def _at_default_size(manifest: Manifest) -> Manifest:
    try:
        fixed = manifest.at()
    except BundleError as error:
        raise BundleError(f"a shape of the {error}") from None
    shapes: list[tuple[str, Sequence[Dim]]] = [
        (f"manifest.{name}", getattr(fixed, name)) for name in ("sample_shape", "output_shape")
    ]
    for name, component in fixed.components.items():
        for kind, tensors in (("inputs", component.spec.inputs), ("outputs", component.spec.outputs)):
            shapes += [(f"components.{name}.{kind}[{i}].shape", tensor.shape[1:]) for i, tensor in enumerate(tensors)]
    for path, shape in shapes:
        symbols = [dim for dim in shape if isinstance(dim, str)]
        if symbols:
            raise BundleError(f'{path} holds "{symbols[0]}", but manifest.sizes is missing')
        if elements(shape) > MAX_ELEMENTS:
            raise BundleError(f"{path} has more than 2^31 elements")
        if 0 in shape:
            raise BundleError(f"{path} must hold sizes of at least 1")
    if len(fixed.output_shape) != 3:
        raise BundleError("manifest.output_shape must be [C, H, W]")
    if manifest.sizes and fixed.output_shape[1:] != manifest.sizes[0]:
        raise BundleError("manifest.output_shape must be [C, H, W] of the size, which follows from manifest.sizes")
    return fixed


def elements(shape: Sequence[Dim]) -> int:
    """The product of a shape's numbers."""
    return math.prod(int(dim) for dim in shape)


def _float32(value: float) -> np.float32:
    with np.errstate(over="ignore"):
        return np.float32(value)


def _require_file(files: Mapping[str, FileEntry], name: str, path: str) -> None:
    if name not in files:
        raise BundleError(f"{path} names {name}, which is not among manifest.files")


def _check_network(component: Component, sample: tuple[Dim, ...], output: tuple[Dim, ...], classes: int) -> None:
    """The executor fills what it knows: one sample, and for a denoiser the timestep; the rest would be garbage."""
    path, inputs = f"components.{component.name}", component.spec.inputs
    _check_unique(inputs, path, "inputs")
    for tensor in inputs:
        requirement = _requirement(tensor, component.name == DENOISER, sample, classes)
        if requirement:
            raise BundleError(f"{path}: the input {tensor.name} {requirement}")
    if len(component.spec.of_role("sample")) != 1:
        raise BundleError(f"{path} must have exactly one input of the role sample")
    if len(component.spec.of_role("guidance")) > 1:
        raise BundleError(f"{path} must have at most one input of the role guidance")
    outputs = component.spec.outputs
    if len(outputs) != 1 or outputs[0].dtype != "float32" or outputs[0].shape[1:] != output:
        raise BundleError(f"{path} must have one float32 output of the shape that follows it")


def _requirement(tensor: TensorSpec, denoises: bool, sample: tuple[Dim, ...], classes: int) -> str:
    """What an input of a denoiser or a decoder fails to meet; "" when it is right."""
    role, shape, floats = tensor.role, tensor.shape[1:], tensor.dtype == "float32"
    if role == "sample":
        return "" if floats and shape == sample else "must be float32 of the bundle's sample_shape"
    if role == "tokens":
        return "takes tokens, which only text encoders do"
    if role in ("constant", "condition", "guidance") and not denoises:
        return f"is a {role}, which only the denoiser takes"
    if role in ("constant", "condition"):
        return "" if floats or role == "constant" else "must be float32"  # constants: _check_constants
    if shape:
        return "must have the shape [N]"
    if (role == "class") == floats:
        return "must be float32 for a timestep or a guidance scale, int64 for a class"
    return "takes a class, the bundle has none" if role == "class" and not classes else ""


def _check_unique(tensors: Sequence[TensorSpec], path: str, kind: str) -> None:
    seen = set[str]()
    for tensor in tensors:
        if tensor.name in seen:
            raise BundleError(f"{path} has two {kind} with the name {tensor.name}")
        seen.add(tensor.name)


def _check_schedule(schedule: Component, files: Mapping[str, FileEntry]) -> None:
    path, inputs, outputs = "components.schedule", schedule.spec.inputs, schedule.spec.outputs
    if [(t.role, t.dtype, len(t.shape)) for t in inputs] != [("timestep", "float32", 1)]:
        raise BundleError(f"{path} must have one input, a float32 timestep of the shape [N]")
    for tensor in outputs:
        if (tensor.role, tensor.dtype) != ("constant", "float32"):
            raise BundleError(f"{path}: the output {tensor.name} must be a constant, float32")
    _check_unique(outputs, path, "outputs")
    if len(schedule.formats) != 1:
        raise BundleError(f"{path} must have one format")
    if schedule.table is None:
        raise BundleError(f"{path}.table must be present")
    width = sum(elements(tensor.shape[1:]) for tensor in outputs)
    if width > MAX_WIDTH:
        raise BundleError(f"{path} gives more than 2^31 constants")
    _check_table(schedule.table, width, files, f"{path}.table")


def _check_table(table: ConstantTable, width: int, files: Mapping[str, FileEntry], path: str) -> None:
    if len(table.timesteps) > MAX_TIMESTEPS:
        raise BundleError(f"{path}.timesteps holds more than {MAX_TIMESTEPS}")
    times = [_float32(time) for time in table.timesteps]
    for index, time in enumerate(times):
        if not np.isfinite(time):
            raise BundleError(f"{path}.timesteps[{index}] is too large for float32")
        if index and not times[index - 1] < time:
            raise BundleError(f"{path}.timesteps[{index}] must be larger than the one before it")
    _require_file(files, table.file, path)
    if width == 0 or files[table.file].bytes != 4 * width * len(times):
        raise BundleError(f"{path}: {table.file} has {files[table.file].bytes} bytes, not {len(times)} rows of {width} float32")


def _check_constants(denoiser: Component, schedule: Component | None) -> None:
    outputs = {(tensor.name, tensor.shape) for tensor in schedule.spec.outputs} if schedule else set()
    for tensor in denoiser.spec.of_role("constant"):
        if tensor.dtype != "float32" or (tensor.name, tensor.shape) not in outputs:
            raise BundleError(
                f"components.denoiser: the input {tensor.name} is a constant, float32, that components.schedule must give in the "
                "same shape"
            )


def _check_text(
    encoders: Mapping[str, Component], denoiser: Component | None, text: TextEntry | None, files: Mapping[str, FileEntry]
) -> None:
    if text is None and encoders:
        raise BundleError(f"components.{next(iter(encoders))} needs manifest.text, which is missing")
    if text is None:
        return
    if not encoders:
        raise BundleError("manifest.text describes text encoders, but components has none")
    if set(text.encoders) != set(encoders):
        (name, *_) = sorted(set(text.encoders) ^ set(encoders))
        raise BundleError(f"manifest.text.encoders.{name} and components.{name} must both be present, or neither")
    if denoiser is None or not denoiser.spec.of_role("condition"):
        raise BundleError(f"components.{next(iter(encoders))} gives conditions, but there is no denoiser to take them")
    taken = {tensor.name: tensor for tensor in denoiser.spec.inputs}
    _check_unique([tensor for encoder in encoders.values() for tensor in encoder.spec.outputs], "components", "encoders' outputs")
    for name, encoder in encoders.items():
        path, entry, inputs = f"components.{name}", text.encoders[name], encoder.spec.inputs
        if [(t.role, t.dtype, len(t.shape)) for t in inputs] != [("tokens", "int64", 2)]:
            raise BundleError(f"{path} must have one input, tokens int64 of the shape [N, length]")
        if not encoder.spec.outputs:
            raise BundleError(f"{path} must have outputs, conditions")
        _require_file(files, entry.tokenizer, f"manifest.text.encoders.{name}.tokenizer")
        if entry.length != inputs[0].shape[1]:
            raise BundleError(f"manifest.text.encoders.{name}.length is {entry.length}, {path} takes {inputs[0].shape[1]} tokens")
        for tensor in encoder.spec.outputs:
            if (tensor.role, tensor.dtype) != ("condition", "float32"):
                raise BundleError(f"{path}: the output {tensor.name} must be a condition, float32")
            other = taken.get(tensor.name, tensor)
            if (other.role, other.shape) != (tensor.role, tensor.shape):
                raise BundleError(
                    f"components.denoiser: the input {tensor.name} must be a condition of the shape that {path} gives"
                )


def _check_programs(manifest: Manifest) -> None:
    for name in manifest.programs:
        program = manifest.programs[name]  # parsed here
        if program.name != name:
            raise BundleError(f"programs.{name}.name must be {name}")
        if program.rows and not manifest.denoiser:
            raise BundleError(f"program {name} has rows, but the bundle has no denoiser to evaluate in them")
        if not program.rows and not manifest.decoder:
            raise BundleError(f"program {name} has no rows, so the bundle must have a decoder")
    if manifest.default_program not in manifest.programs:
        raise BundleError("manifest.default_program is not among the programs")
