"""A diffusers folder as a source: its pipeline family determines the layout, its scheduler becomes the default program."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_edge.diffusion import Program, build, from_diffusers
from aigc_edge.errors import AigcEdgeError, ProgramError
from aigc_edge.files import sha256_of
from aigc_edge.sources.base import RESULT, SOLVERS, SOURCES, STEPS, Source, SourceComponent, SourceOptions, distinct
from aigc_edge.sources.diffusers.folder import INDEX, Folder

if TYPE_CHECKING:
    from aigc_edge.sources.diffusers.layout import Layout

_NETWORKS = ("unet", "transformer", "vae", "vqvae", "text_encoder", "text_encoder_2", "text_encoder_3")
_UNUSED = ("safety_checker", "image_encoder", "feature_extractor")  # optional components that text-to-image does not use


@SOURCES.register("diffusers")
class DiffusersSource(Source):
    """A folder that diffusers' `save_pretrained` wrote (or a snapshot of a hub repository), of a supported pipeline class.

    Its default program is the folder's own scheduler, imported by probing; where the training schedule is supported, the built-in
    solvers are compiled too.
    """

    def __init__(self, folder: Folder, layout: Layout, data: str | None) -> None:
        self._folder, self._layout, self.images = folder, layout, data
        if data is not None and self._layout.output_shape[1] != self._layout.output_shape[2]:
            raise AigcEdgeError("--data was given, but evaluation needs square images, which this size is not: leave it out")
        self.name, self.family = folder.name, folder.kind
        self.sample_shape, self.output_shape, self.sizes = layout.sample_shape, layout.output_shape, layout.sizes
        self.num_classes, self.text, self.schedule = layout.num_classes, layout.text, layout.schedule
        self.guidance_scale, self.steps = layout.guidance_scale, layout.steps
        if layout.text is not None:
            self.samples = len(layout.text.prompts)  # one per prompt: an image takes minutes on a CPU
        for part in layout.components:
            part.times = self.timesteps

    @classmethod
    def claims(cls, text: str) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return (Path(text) / INDEX).is_file()
        return False

    @classmethod
    def open(cls, text: str, options: SourceOptions) -> Source:
        from aigc_edge.sources.diffusers.layout import PIPELINES
        from aigc_edge.sources.diffusers.loading import require

        described = ("role", "prediction", "schedule", "classes", "inputs", "calibration", "output_range")
        options.refuse("a diffusers folder", *described, *RESULT)
        folder = Folder(Path(text))
        if folder.kind not in PIPELINES:
            raise AigcEdgeError(
                f"{folder.name} is a {folder.kind}, which cannot be compiled yet: choose one of {', '.join(PIPELINES)}"
            )
        require("diffusers")
        layout = PIPELINES[folder.kind](folder, options)
        for component in filter(folder.has, _NETWORKS):
            folder.weights(component)
        return cls(folder, layout, options.data)

    def components(self) -> list[SourceComponent]:
        return self._layout.components

    def timesteps(self) -> tuple[float, ...]:
        """Those of the built-in solvers where the schedule supports them, else of the folder's own scheduler."""
        programs = self.programs(None if self.schedule is None else SOLVERS[0], None, None)
        return tuple(sorted({row.timestep for program in programs for row in program.rows}))

    def programs(self, solver: str | None, steps: int | None, guidance_scale: float | None) -> list[Program]:
        """The folder's own scheduler first, unless a solver is named; then the built-in solvers, if the schedule is supported."""
        layout = self._layout
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        count = steps or self.steps
        programs: list[Program] = []
        if solver is None:
            try:
                programs += [self._own(n, scale) for n in dict.fromkeys((count, *layout.few))]
            except ProgramError as error:
                advice = "" if self.schedule is None else f"; choose a solver instead, such as --solver {SOLVERS[0]}"
                raise AigcEdgeError(f"the scheduler of {self.name} cannot be compiled: {error}{advice}") from error
        elif self.schedule is None:
            kind = type(layout.scheduler).__name__
            raise AigcEdgeError(
                f"{self.name} has no schedule that the solver {solver!r} supports, only its {kind}: leave the solver out"
            )
        else:
            programs.append(self._built(solver, count, scale))
        if self.schedule is not None and not layout.few:
            for name, n in itertools.product(SOLVERS, STEPS):
                with contextlib.suppress(ProgramError):  # this schedule does not support it
                    programs.append(self._built(name, n, scale))
        return distinct(programs)

    def _own(self, steps: int, scale: float) -> Program:
        layout = self._layout
        kind = type(layout.scheduler).__name__.removesuffix("Scheduler")
        options: dict[str, Any] = {} if layout.timestep_scale == 1.0 else {"timestep_scale": layout.timestep_scale}
        options |= layout.arguments(steps)
        return from_diffusers(layout.scheduler, steps, name=f"{kind}-{steps}", guidance_scale=scale, **options)

    def _built(self, solver: str, steps: int, scale: float) -> Program:
        assert self.schedule is not None
        return build(self.schedule, solver, steps, guidance_scale=scale, clip=self._layout.clip)

    def identity(self, part: str) -> str:
        """Hash of the component's files, its spec and shape, and the versions of the libraries that load it."""
        spec = next(p.spec for p in self._layout.components if p.spec.name == part)
        facts = [self.family, self.output_shape, spec.to_json(), [version(library) for library in ("diffusers", "transformers")]]
        digest = hashlib.sha256(repr(facts).encode())
        components = {"denoiser": ("unet", "transformer"), "decoder": ("vae",)}.get(part, (part,))
        for file in sorted(file for name in components for file in (self._folder.path / name).glob("*") if file.is_file()):
            digest.update(f"{file.name} {sha256_of(file)}".encode())
        return digest.hexdigest()

    def provenance(self) -> dict[str, Any]:
        folder = self._folder
        left_out = [name for name in _UNUSED if folder.has(name)]
        origin = {"source": folder.name, "pipeline": folder.kind, "data": None, "licence": folder.licence()}
        origin["diffusers"] = folder.index.get("_diffusers_version")
        return origin | ({"left_out": left_out} if left_out else {})
