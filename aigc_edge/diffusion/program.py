"""The sampling program: a solver, schedule and guidance compiled into rows of numbers that every executor understands."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from aigc_edge.diffusion import checks
from aigc_edge.diffusion.row import MAX_SLOTS, Row
from aigc_edge.errors import ProgramError

if TYPE_CHECKING:
    from aigc_edge.diffusion.loop import Loop

VERSION = 1
MAX_ROWS = 10_000

_PROGRAM_REQUIRED = ("version", "name", "slots", "init_scale", "guidance_scale", "rows")
_PROGRAM_OPTIONAL = ("guidance_rescale", "meta")


@dataclass(frozen=True)
class Program:
    """Rows that an executor runs on `slots` slots, which start as slot_0 = init_scale · unit normal latents, others 0.

    The result is slot_0 after the last row. A program without rows is a one-shot generator: image = decoder(init_scale ·
    latents). `guidance_scale` is the classifier-free guidance scale, 1 = off; `guidance_rescale` 0 … 1 draws the guided output's
    standard deviation towards the conditional one's (Lin et al. 2024), 0 = off. `meta` says how the program was made and has no
    effect. Raises ProgramError for anything that no executor can run.
    """

    name: str
    slots: int
    init_scale: float
    rows: tuple[Row, ...]
    guidance_scale: float = 1.0
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)
    guidance_rescale: float = 0.0

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        if not isinstance(self.name, str) or not self.name:
            raise ProgramError(f"the name of a program must be text that is not empty, not {checks.show(self.name)}")
        put("slots", checks.integer(self.slots, "slots", 1, MAX_SLOTS))
        put("init_scale", checks.number(self.init_scale, "init_scale"))
        put("guidance_scale", checks.number(self.guidance_scale, "guidance_scale"))
        put("guidance_rescale", checks.number(self.guidance_rescale, "guidance_rescale", 0.0, 1.0))
        if not isinstance(self.meta, Mapping):
            raise ProgramError(f"meta must be a JSON object, not {checks.show(self.meta)}")
        put("meta", checks.plain(self.meta, "meta"))
        if not isinstance(self.rows, (list, tuple)):
            raise ProgramError(f"rows must be a list, not {checks.show(self.rows)}")
        if len(self.rows) > MAX_ROWS:
            raise ProgramError(f"a program may have at most {MAX_ROWS} rows, not {len(self.rows)}: take fewer steps")
        put("rows", tuple(self.rows))
        for index, row in enumerate(self.rows):
            if not isinstance(row, Row):
                raise ProgramError(f"row {index} must be a Row, not {checks.show(row)}")
            if row.slots != self.slots:
                raise ProgramError(f"row {index} works on {row.slots} slots, the program has {self.slots}")

    @property
    def nfe(self) -> int:
        """Number of network evaluations; a guided row is one, with a doubled batch."""
        return len(self.rows)

    @property
    def weights(self) -> tuple[float, ...]:
        """The guidance weight w of each row; where it is 1 the unconditional half is not evaluated."""
        return tuple([1.0 + row.guidance * (self.guidance_scale - 1.0) for row in self.rows])

    @property
    def sample_evaluations(self) -> int:
        """Network evaluations that one sample costs: a guided row costs two."""
        return sum(1 if w == 1.0 else 2 for w in self.weights)

    @property
    def draws(self) -> tuple[int, ...]:
        """Indices of the noise that the rows add, in their order: 2 r + 1 before and 2 r + 2 after row r; latents are draw 0."""
        found = []
        for index, row in enumerate(self.rows):
            found += [2 * index + 1] if any(row.before_noise or ()) else []
            found += [2 * index + 2] if any(row.after_noise or ()) else []
        return tuple(found)

    def state_bytes(self, elements: int, batch: int = 1) -> int:
        """Bytes for `batch` samples of `elements` float32 numbers: slots, network input and output (not the network)."""
        halves = 1 if all(w == 1.0 for w in self.weights) else 2
        return 4 * elements * batch * (self.slots + 2 * halves)

    def with_guidance(self, scale: float) -> Program:
        """The same program with another default guidance scale."""
        return dataclasses.replace(self, guidance_scale=scale)

    def start_at(self, strength: float) -> Program:
        """The program of the last int(strength · steps) steps of this one, for image to image; see `noised`.

        It is built (or imported, which needs diffusers) anew, so that no step relies on a history that was skipped. Raises
        ProgramError for a program that does not say what it was made of, and where no step is left.
        """
        from aigc_edge.diffusion.build import build

        if self.meta.get("source") == "diffusers":
            from aigc_edge.diffusion.importer.scheduler import import_again

            return import_again(self, strength)
        if "source" in self.meta or not {"schedule", "solver", "steps"} <= set(self.meta):
            raise ProgramError(f"program {self.name!r} does not say what it was built from: build one with strength={strength}")
        options = {**self.meta.get("options", {}), "strength": strength}
        given = self.meta["schedule"], self.meta["solver"], self.meta["steps"]
        return build(*given, guidance_scale=self.guidance_scale, **options)

    def noised(self, image: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Latents for a program that starts in the middle, of `image` [N, C, H, W] in the output range and unit normal `noise`.

        Raises ProgramError for a program that starts with noise alone, and for shapes that differ.
        """
        start = self.meta.get("start")
        if start is None:
            raise ProgramError(f"program {self.name!r} starts with noise alone: make one by start_at(strength)")
        if np.shape(image) != np.shape(noise):
            raise ProgramError(f"noise must be of the image's shape {np.shape(image)}, not {np.shape(noise)}")
        return (start["alpha"] * np.asarray(image) + start["sigma"] * np.asarray(noise)) / self.init_scale

    def sample(
        self,
        network: Any,
        latents: Any,
        *,
        seeds: Any = None,
        noise: Any = "philox",
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        conditions: Mapping[str, Any] | None = None,
        negative: Mapping[str, Any] | None = None,
        mask: Any = None,
        known: Any = None,
        known_noise: Any = None,
        dtype: str | None = None,
        channels_last: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Any:
        """Run the rows around any network on unit normal `latents` [N, C, H, W] (or any [N, ...]); returns float32 [N, ...].

        Latents are a NumPy array or a torch tensor on any device, and so is everything else. `network(sample [M, ...], timestep
        float32 [M], **conditions)` → [M, ...]: a function, a torch module (such as diffusers' UNets) or a loaded engine; M = 2 N
        in a guided row, the first N with `conditions`, the others with `negative`: arrays [N or 1, ...] by the network's names
        for them. Guidance scale and rescale are the program's own unless given. Noise that rows add comes from `seeds` [N] (0, 1,
        … unless given) as `noise` says: "philox", "numpy", "torch-cpu", "torch-cuda", or is an array [draws, N, ...]. Where a
        `mask` is 0 the result is `known`, brought to each row's noise level with `known_noise` (else the latents): [N, ...].

        The state is float32. `dtype` is what the network takes and gives, "float32", "float16" or "bfloat16": that of a module's
        parameters or of an engine, else of the latents; `channels_last` its memory layout. `progress(row, rows)` is called after
        each evaluation; what it raises stops the run. Raises ProgramError for what does not fit, and AigcEdgeError for a value
        that is not finite, with its row and sample.
        """
        from aigc_edge.diffusion.execution import run_program

        options = {"conditions": conditions, "negative": negative, "mask": mask, "known": known, "channels_last": channels_last}
        return run_program(
            self.guided(guidance_scale, guidance_rescale),
            network,
            latents,
            seeds=seeds,
            noise=noise,
            known_noise=known_noise,
            dtype=dtype,
            progress=progress,
            **options,
        )

    def prepare(
        self,
        network: Any,
        like: Any,
        *,
        conditions: Mapping[str, Any] | None = None,
        negative: Mapping[str, Any] | None = None,
        mask: Any = None,
        known: Any = None,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        dtype: str | None = None,
        channels_last: bool = False,
        graph: bool | Literal["auto"] = "auto",
    ) -> Loop:
        """`sample`, prepared for many calls with latents of the shape, kind and device of `like`: `loop(latents, seeds=…)`.

        Conditions, mask and known say the shapes that calls may change the values of; guidance is fixed. On a CUDA device the
        whole loop is captured into one graph, which serves any seeds and values; where that cannot be, "auto" runs row by row and
        `loop.reason` says why, True raises ProgramError. False never captures. What the network computes on the host is done
        once, at the capture: a network that depends on it needs False.
        """
        from aigc_edge.diffusion.execution import prepare
        from aigc_edge.diffusion.loop import Loop

        program = self.guided(guidance_scale, guidance_rescale)
        options = {"conditions": conditions, "negative": negative, "mask": mask, "known": known, "channels_last": channels_last}
        return Loop(*prepare(program, network, like, dtype=dtype, standing=True, **options), graph)

    def guided(self, scale: float | None, rescale: float | None) -> Program:
        """The same program with another guidance scale and rescale, where they are not None."""
        program = self if scale is None else self.with_guidance(scale)
        return program if rescale is None else dataclasses.replace(program, guidance_rescale=rescale)

    def plot(self) -> str:
        """An SVG picture: noise level and size of the coefficients against the row."""
        from aigc_edge.diffusion.plot import svg

        return svg(self)

    def to_json(self) -> dict[str, Any]:
        """The program as JSON, which `from_json` reads back bit for bit."""
        return {
            "version": VERSION,
            "name": self.name,
            "slots": self.slots,
            "init_scale": self.init_scale,
            "guidance_scale": self.guidance_scale,
            **({"guidance_rescale": self.guidance_rescale} if self.guidance_rescale else {}),
            "rows": [row.to_json() for row in self.rows],
            "meta": checks.plain(self.meta, "meta"),
        }

    @staticmethod
    def from_json(value: Any) -> Program:
        """The program of a JSON object; raises ProgramError that names the row and what is wrong with it."""
        if isinstance(value, Mapping) and "version" in value:  # first: a newer version may well have members unknown here
            version = checks.integer(value["version"], "the version of a program", 1, 2**31 - 1)
            if version > VERSION:
                raise ProgramError(f"the program is of version {version}, this aigc-edge reads up to {VERSION}: update aigc-edge")
        given = checks.members(value, _PROGRAM_REQUIRED, _PROGRAM_OPTIONAL, "a program")
        rows = given.pop("rows")
        if not isinstance(rows, (list, tuple)):
            raise ProgramError(f"rows must be a list, not {checks.show(rows)}")
        if len(rows) > MAX_ROWS:
            raise ProgramError(f"a program may have at most {MAX_ROWS} rows, not {len(rows)}: take fewer steps")
        del given["version"]
        return Program(rows=tuple([_row(index, row) for index, row in enumerate(rows)]), **given)

    @classmethod
    def from_diffusers(
        cls, scheduler: Any, num_steps: int | None, *, name: str | None = None, guidance_scale: float = 1.0, **options: Any
    ) -> Program:
        """The program of a configured diffusers scheduler, found by running it on unit vectors (needs diffusers and torch).

        `options` go to the scheduler's `set_timesteps` (sigmas, timesteps, mu …; `num_steps` may then be None) and `step` (eta,
        s_churn, use_clipped_model_output …); `timestep_scale` multiplies the network's time inputs, for networks that are told
        thousandths. `strength` below 1 takes the last int(strength · num_steps) steps, as diffusers' image-to-image pipelines do
        (those of flow models round up); see `noised`. The scheduler itself is left as it is. The state is the smallest one that
        reproduces it; `meta["residual"]` is the largest relative difference on a random nonlinear network. Raises ProgramError
        that says why where it cannot be a table: discrete or adaptive steps, learned variance, more than one clipping in a step,
        or a residual above 1e-5. Rows say their level where the scheduler does, so that a mask works.
        """
        from aigc_edge.diffusion.importer.scheduler import import_scheduler

        return import_scheduler(scheduler, num_steps, name=name, guidance_scale=guidance_scale, **options).program

    def __str__(self) -> str:
        from aigc_edge.diffusion.table import render

        return render(self)


def _row(index: int, value: Any) -> Row:
    try:
        return Row.from_json(value)
    except ProgramError as error:
        raise ProgramError(f"row {index}: {error}") from None
