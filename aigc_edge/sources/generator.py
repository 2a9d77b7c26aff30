"""User-defined generators: torch modules with the information that a bundle needs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from aigc_edge.bundle.inputs import looks_normal
from aigc_edge.bundle.sizes import Dim, Size, listed, named, sides
from aigc_edge.bundle.spec import BATCH, ComponentSpec, TensorSpec
from aigc_edge.diffusion import Program
from aigc_edge.errors import AigcEdgeError
from aigc_edge.export.layout import NARROW, channels_last
from aigc_edge.sources.base import Source, SourceComponent, SourceOptions, sample_inputs
from aigc_edge.sources.inputs import denoiser_spec

if TYPE_CHECKING:
    from torch import Tensor, nn

IMAGE, SIGNAL = 3, 2  # dimensions without the batch


class Generator(Source):
    """Arbitrary torch modules as a source, for `compile_source` and as return value of `package:function`.

    Give a `denoiser`, evaluated at every step, a `decoder`, evaluated once, or both (the decoder then takes the denoised sample).
    Each takes and returns tensors whose first dimension is the batch; modules in float64 or half precision become float32. Where
    a module returns a dict, tuple or dataclass of several tensors, `result` is the key or position of its result. Images may have
    their channels last; `layout` "nhwc" says so where the shapes do not show it. `sample` is an example input of the first
    network, float32 [N, ...]; its shape without N is that of the state or latents. `inputs` says what a decoder without a
    denoiser takes, which formats are calibrated and compared on: "normal", "uniform" (−1 … 1), "uniform:LOW:HIGH", "sphere",
    arrays [k, ...] by input name, or the path of an .npz file with such arrays. By default it is the values of `sample`, or
    "normal" where these are constant or as unit normal noise; a denoiser is calibrated on the states of its own program.

    A denoiser is called as `denoiser(sample, timestep [N])`, with `num_classes` as `denoiser(sample, timestep, classes int64
    [N])`, where index `num_classes` is the null class; a decoder as `decoder(sample)` or, without a denoiser, `decoder(sample,
    classes)`. `conditions` are further inputs of the denoiser, examples [k, ...] by name, in the order of its arguments, which a
    caller passes for each sample; `negative` are examples of negative conditions. Formats are calibrated and evaluated with
    these. `schedule` contains arguments of `aigc_edge.diffusion.build` ({"prediction": "epsilon", "betas": "linear"}); `programs`
    are custom programs instead of it.

    `sizes` are the image sizes (height, width) that the bundle supports, the size of the example first; only the last two
    dimensions of the sample depend on them. `data` is a data set or a folder of real images for evaluation; the output is in
    `output_range`. A decoder may return signals [N, C, L], which the bundle holds as images [N, C, 1, L].

    Raises AigcEdgeError for inconsistent arguments.
    """

    family = "module"

    def __init__(
        self,
        *,
        sample: Tensor,
        denoiser: nn.Module | None = None,
        decoder: nn.Module | None = None,
        schedule: Mapping[str, Any] | None = None,
        programs: Sequence[Program] = (),
        num_classes: int = 0,
        class_names: Sequence[str] = (),
        conditions: Mapping[str, Tensor] | None = None,
        negative: Mapping[str, Tensor] | None = None,
        guidance_scale: float = 1.0,
        output_range: tuple[float, float] = (-1.0, 1.0),
        sizes: Sequence[Size] = (),
        data: str | None = None,
        layout: Literal["nchw", "nhwc"] | None = None,
        result: str | None = None,
        name: str = "generator",
        licence: str | None = None,
        inputs: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    ) -> None:
        import torch

        if denoiser is None and decoder is None:
            raise AigcEdgeError("a generator was given without networks: give a denoiser, a decoder, or both")
        if denoiser is not None and schedule is None and not programs:
            raise AigcEdgeError(
                "a denoiser was given without its schedule: give schedule={'prediction': …} (--prediction), or programs"
            )
        if denoiser is None and (schedule is not None or programs or conditions):
            raise AigcEdgeError(
                "a schedule, programs or conditions were given without a denoiser, which they need: give one, or leave them out"
            )
        if class_names and len(class_names) != num_classes:
            raise AigcEdgeError(f"{len(class_names)} class names for {num_classes} classes: give one each, or none")
        self.name, self.schedule, self.num_classes = name, schedule, num_classes
        self.class_names, self.guidance_scale, self.output_range = tuple(class_names), guidance_scale, output_range
        self._programs = list(programs)
        self.images, self._licence = data, licence
        self.conditions = {name: _floats(value, name) for name, value in (conditions or {}).items()}
        self.negative = {name: _floats(value, name) for name, value in (negative or {}).items()}
        self._sample = _floats(sample, "sample")
        if self.negative and set(self.negative) != set(self.conditions):
            raise AigcEdgeError(
                f"negative conditions {sorted(self.negative)} for conditions {sorted(self.conditions)}: give the same"
            )
        from aigc_edge.export.plain_module import plain

        self._denoiser, self._decoder, self._result, self._checked = denoiser, decoder, result, False
        self._channels_last = channels_last([self._sample.shape], layout)[0]
        shape: tuple[int, ...] | None = None
        if decoder is not None:
            labels = [torch.zeros(1, dtype=torch.int64)] if num_classes and denoiser is None else []
            made = plain("decoder", decoder, self._sample[:1], *labels, layout=layout, result=result)
            self._decoder, shape = made.module, tuple(made.output.shape[1:])
            self._channels_last = made.sample_last
        samples = self._sample.permute(NARROW) if self._channels_last else self._sample
        self.sample_shape = tuple(samples.shape[1:])
        shape = shape or self.sample_shape
        if decoder is not None and len(shape) == SIGNAL:
            from aigc_edge.export.signal import SignalDecoder

            self._decoder, shape = SignalDecoder(made.module), (shape[0], 1, shape[1])
        if len(shape) != IMAGE:
            raise AigcEdgeError(
                f"the output has the shape {[BATCH, *shape]}: images must be [N, C, H, W], signals of a decoder [N, C, L]"
            )
        self.output_shape = (shape[0], shape[1], shape[2])
        self.sizes = _validate_sizes(sizes, self.sample_shape, self.output_shape)
        values = samples.detach().cpu().numpy()
        if inputs is None and denoiser is None and not looks_normal(values):
            inputs = {"sample": values}
        if inputs is not None:
            spec = self.components()[0].spec.at(self.sizes[0] if self.sizes else None)
            self.inputs = sample_inputs(inputs, spec, name, num_classes)

    @classmethod
    def claims(cls, text: str) -> bool:
        return False

    @classmethod
    def open(cls, text: str, options: SourceOptions) -> Source:
        raise AigcEdgeError(f"{text} is not a generator: create one in Python")

    def components(self) -> list[SourceComponent]:
        self._check_denoiser()
        parts = []
        if self._denoiser is not None:
            conditions = [
                TensorSpec(name, "condition", "float32", (BATCH, *value.shape[1:])) for name, value in self.conditions.items()
            ]
            spec = denoiser_spec(self._following(self.sample_shape), conditions, classes=self.num_classes > 0)
            parts.append(self._part(self._denoiser, spec))
        if self._decoder is not None:
            inputs = [TensorSpec("sample", "sample", "float32", (BATCH, *self._following(self.sample_shape)))]
            if self.num_classes and self._denoiser is None:
                inputs.append(TensorSpec("class_labels", "class", "int64", (BATCH,)))
            output = TensorSpec("output", "sample", "float32", (BATCH, *self._following(self.output_shape)))
            parts.append(self._part(self._decoder, ComponentSpec("decoder", tuple(inputs), (output,))))
        return parts

    def _following(self, shape: Sequence[int]) -> tuple[Dim, ...]:
        """The shape with the last two dimensions as functions of the image size."""
        return (*shape[:-2], *sides(self.sizes, self.sizes[0][0] // shape[-2])) if self.sizes else tuple(shape)

    def programs(self, solver: str | None, steps: int | None, guidance_scale: float | None) -> list[Program]:
        built = [] if self._programs and self.schedule is None else super().programs(solver, steps, guidance_scale)
        custom = [p if guidance_scale is None else p.with_guidance(guidance_scale) for p in self._programs]
        return custom + built if solver is None and steps is None else built + custom

    def provenance(self) -> dict[str, Any]:
        return {"source": "a torch module", "licence": self._licence}

    def _part(self, module: nn.Module, spec: ComponentSpec) -> SourceComponent:
        classes, inputs = self.num_classes, self.inputs
        return SourceComponent(spec, lambda: module, sizes=self.sizes, times=self.timesteps, classes=classes, inputs=inputs)

    def _check_denoiser(self) -> None:
        """Evaluate the denoiser once on the example, to see that it can be called, and how its result is picked."""
        import torch

        from aigc_edge.export.plain_module import plain

        if self._checked or self._denoiser is None:
            return
        one, times = self._sample[:1], torch.tensor(self.timesteps()[-1:] or (0.0,))
        labels = [torch.zeros(1, dtype=torch.int64)] if self.num_classes else []
        inputs = [times, *labels, *(value[:1] for value in self.conditions.values())]
        layout: Literal["nchw", "nhwc"] = "nhwc" if self._channels_last else "nchw"
        made = plain("denoiser", self._denoiser, one, *inputs, layout=layout, result=self._result)
        if made.output.shape[1:] != self.sample_shape:
            raise AigcEdgeError(
                f"the denoiser takes {list(one.shape)} but returns {list(made.output.shape)}: it must preserve the shape"
            )
        self._denoiser, self._checked = made.module, True


def _floats(value: Tensor, name: str) -> Tensor:
    import torch

    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.ndim < 2 or not len(value):
        description = f"{value.dtype} {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise AigcEdgeError(f"the example {name!r} is {description}: give a float32 tensor [N, ...]")
    return value.float()


def _validate_sizes(sizes: Sequence[Size], sample: Sequence[int], output: tuple[int, int, int]) -> tuple[Size, ...]:
    """The distinct sizes if the sample supports them; empty for a single size."""
    distinct = tuple(dict.fromkeys((int(height), int(width)) for height, width in sizes))
    if not distinct:
        return ()
    if distinct[0] != output[1:]:
        raise AigcEdgeError(
            f"the first size is {named(distinct[0])}, but the example produces {named(output[1:])}: give that size first"
        )
    scale = output[1] // sample[-2] if len(sample) == IMAGE else 0
    if (
        scale == 0
        or [side // scale for side in output[1:]] != list(sample[1:])
        or (len(distinct) > 1 and any(side < 1 or side % scale for size in distinct for side in size))
    ):
        raise AigcEdgeError(
            f"the sizes {listed(distinct)} do not fit a sample of {list(sample)} that becomes {named(output[1:])}: its last "
            "two dimensions must be height and width, or both divided by the same integer, at every size"
        )
    return distinct if len(distinct) > 1 else ()
