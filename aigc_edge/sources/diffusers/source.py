"""A diffusers folder as a source: the family of its pipeline class lays it out, the scheduler becomes the default program."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_edge.diffusion import Program, build
from aigc_edge.errors import AigcEdgeError, ProgramError
from aigc_edge.sources.base import SOLVERS, SOURCES, STEPS, Part, Source, SourceOptions
from aigc_edge.sources.diffusers.folder import INDEX, Folder

if TYPE_CHECKING:
    from aigc_edge.sources.diffusers.layout import Layout

_NETWORKS = ("unet", "transformer", "vae", "vqvae", "text_encoder", "text_encoder_2", "text_encoder_3")
_HARMLESS = ("safety_checker", "image_encoder", "feature_extractor")  # that a pipeline may carry and text to image does not use


@SOURCES.register("diffusers")
class DiffusersSource(Source):
    """A folder that diffusers' `save_pretrained` wrote (or a snapshot of a hub's repository), of a pipeline class that is known.

    Its default program is the folder's own scheduler, probed into rows; where the training schedule is one of ours, our solvers
    follow it too.
    """

    def __init__(self, folder: Folder, layout: Layout) -> None:
        self._folder, self._layout = folder, layout
        self.name, self.family = folder.name, folder.kind
        self.sample_shape, self.output_shape = layout.sample_shape, layout.output_shape
        self.num_classes, self.text, self.schedule = layout.num_classes, layout.text, layout.schedule
        self.guidance_scale, self.steps = layout.guidance_scale, layout.steps

    @classmethod
    def claims(cls, text: str) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return (Path(text) / INDEX).is_file()
        return False

    @classmethod
    def open(cls, text: str, options: SourceOptions) -> Source:
        from aigc_edge.sources.diffusers.layout import PIPELINES
        from aigc_edge.sources.diffusers.loading import require

        folder = Folder(Path(text))
        if folder.kind not in PIPELINES:
            raise AigcEdgeError(
                f"{folder.name} is a {folder.kind}, which cannot be compiled yet: choose one of {', '.join(PIPELINES)}"
            )
        require("diffusers")
        layout = PIPELINES[folder.kind](folder, options)
        for component in filter(folder.has, _NETWORKS):
            folder.check_weights(component)
        return cls(folder, layout)

    def parts(self) -> list[Part]:
        return self._layout.parts

    def programs(self, solver: str | None, steps: int | None, guidance_scale: float | None) -> list[Program]:
        """The folder's own scheduler first, unless a solver is named; then the usual solvers, where the schedule is ours."""
        layout = self._layout
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        count = steps or self.steps
        made: list[Program] = []
        if solver is None:
            made += [self._own(n, scale) for n in dict.fromkeys((count, *layout.few))]
        elif self.schedule is None:
            kind = type(layout.scheduler).__name__
            raise AigcEdgeError(
                f"{self.name} has no schedule that the solver {solver!r} could follow, only its {kind}: leave it out"
            )
        else:
            made.append(self._built(solver, count, scale))
        if self.schedule is not None and not layout.few:
            for name in SOLVERS:
                for n in STEPS:
                    with contextlib.suppress(ProgramError):  # one that this schedule does not admit
                        made.append(self._built(name, n, scale))
        return list({program.name: program for program in reversed(made)}.values())[::-1]

    def _own(self, steps: int, scale: float) -> Program:
        layout = self._layout
        kind = type(layout.scheduler).__name__.removesuffix("Scheduler")
        taken = {} if layout.timestep_scale == 1.0 else {"timestep_scale": layout.timestep_scale}
        return Program.from_diffusers(
            layout.scheduler,
            steps,
            name=f"{kind}-{steps}",
            guidance_scale=scale,
            **taken,
            **layout.arguments(steps),
        )

    def _built(self, solver: str, steps: int, scale: float) -> Program:
        assert self.schedule is not None
        return build(self.schedule, solver, steps, guidance_scale=scale, clip=self._layout.clip)

    def provenance(self) -> dict[str, Any]:
        index: Mapping[str, Any] = self._folder.index
        left_out = [name for name in _HARMLESS if self._folder.has(name)]
        found = {
            "source": self._folder.name,
            "pipeline": self._folder.kind,
            "data": None,
            "licence": self._folder.licence(),
            "diffusers": index.get("_diffusers_version"),
        }
        return found | ({"left_out": left_out} if left_out else {})
