"""User-defined generators: torch modules with the information that a bundle needs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aigc_edge.bundle.inputs import looks_normal
from aigc_edge.bundle.sizes import Dim, Size, listed, named, sides
from aigc_edge.bundle.spec import BATCH, ComponentSpec, TensorSpec
from aigc_edge.diffusion import Program
from aigc_edge.errors import AigcEdgeError, first_line
from aigc_edge.sources.base import Source, SourceComponent, SourceOptions, sample_inputs
from aigc_edge.sources.inputs import TIMES, denoiser_spec

if TYPE_CHECKING:
    from torch import Tensor, nn

IMAGE = 3  # dimensions without the batch


class Generator(Source):
    """Arbitrary torch modules as a source, for `compile_source` and as return value of `package:function`.

    Give a `denoiser`, evaluated at every step, a `decoder`, evaluated once, or both (the decoder then takes the denoised sample).
    Each takes and returns float32 tensors whose first dimension is the batch. `sample` is an example input of the first network,
    float32 [N, ...]; its shape without N is that of the state or latents. `inputs` says what a decoder without a denoiser takes,
    which formats are calibrated and compared on: "normal", "uniform" (−1 … 1), "uniform:LOW:HIGH", "sphere", arrays [k, ...]
    by input name, or the path of an .npz file with such arrays. By default it is the values of `sample`, or "normal" where these
    are constant or as unit normal noise; a denoiser is calibrated on the states of its own program. A denoiser is called as
    `denoiser(sample, timestep [N])`, with `num_classes` as `denoiser(sample, timestep, classes int64 [N])`, where index
    `num_classes` is the null class; a decoder as `decoder(sample)` or, without a denoiser, `decoder(sample, classes)`.
    `conditions` are further inputs of the denoiser, examples [k, ...] by name, in the order of its arguments, which a caller
    passes for each sample; `negative` are examples of negative conditions. Formats are calibrated and evaluated with these.
    `schedule` contains arguments of `aigc_edge.diffusion.build` ({"prediction": "epsilon", "betas": "linear"}); `programs` are
    custom programs instead of it.
    `sizes` are the image sizes (height, width) that the bundle supports, the size of the example first; only the last two
    dimensions of the sample depend on them. `data` is a data set or a folder of real images for evaluation; the output is in
    `output_range`.

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
        name: str = "generator",
        licence: str | None = None,
        inputs: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    ) -> None:
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
        self._denoiser, self._decoder, self._programs = denoiser, decoder, list(programs)
        self.conditions, self.negative = dict(conditions or {}), dict(negative or {})
        self.images, self._licence = data, licence
        self._sample = _floats(sample, "sample")
        for key, value in [*self.conditions.items(), *self.negative.items()]:
            _floats(value, key)
        if self.negative and set(self.negative) != set(self.conditions):
            raise AigcEdgeError(
                f"negative conditions {sorted(self.negative)} for conditions {sorted(self.conditions)}: give the same"
            )
        self.sample_shape = tuple(self._sample.shape[1:])
        shape = self.sample_shape if decoder is None else self._decoded()
        if len(shape) != IMAGE:
            raise AigcEdgeError(f"the output has the shape {[BATCH, *shape]}: images must be [N, C, H, W]")
        self.output_shape = (shape[0], shape[1], shape[2])
        self.sizes = _validate_sizes(sizes, self.sample_shape, self.output_shape)
        values = self._sample.detach().cpu().numpy()
        if inputs is None and denoiser is None and not self.num_classes and not looks_normal(values):
            inputs = {"sample": values}
        self.inputs = sample_inputs(inputs, self.components()[0].spec.at(self.sizes[0] if self.sizes else None), name)

    @classmethod
    def claims(cls, text: str) -> bool:
        return False

    @classmethod
    def open(cls, text: str, options: SourceOptions) -> Source:
        raise AigcEdgeError(f"{text} is not a generator: create one in Python")

    def components(self) -> list[SourceComponent]:
        parts = []
        if self._denoiser is not None:
            conditions = [
                TensorSpec(name, "condition", "float32", (BATCH, *value.shape[1:])) for name, value in self.conditions.items()
            ]
            spec = denoiser_spec(self._following(self.sample_shape), conditions, classes=self.num_classes > 0)
            parts.append(self._part(self._denoiser, spec, self._times()))
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

    def _part(self, module: nn.Module, spec: ComponentSpec, times: tuple[float, float] = TIMES) -> SourceComponent:
        return SourceComponent(spec, lambda: module, sizes=self.sizes, times=times, classes=self.num_classes)

    def _times(self) -> tuple[float, float]:
        """Smallest and largest timestep of the programs."""
        times = [row.timestep for program in self.programs(None, None, None) for row in program.rows]
        return min(times), max(times)

    def _decoded(self) -> tuple[int, ...]:
        import torch

        assert self._decoder is not None
        labels = [torch.zeros(len(self._sample), dtype=torch.int64)] if self.num_classes and self._denoiser is None else []
        try:
            with torch.no_grad():
                return tuple(self._decoder.eval()(self._sample, *labels).shape[1:])
        except Exception as error:  # any exception of the module
            what = f"the decoder does not accept a sample of shape {list(self._sample.shape)}"
            raise AigcEdgeError(f"{what}: {first_line(error)}") from error


def _floats(value: Tensor, name: str) -> Tensor:
    import torch

    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32 or value.ndim < 2:
        description = f"{value.dtype} {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise AigcEdgeError(f"the example {name!r} is {description}: give a float32 tensor [N, ...]")
    return value


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
