"""The sampling program: a solver, schedule and guidance compiled into rows of numbers that every executor understands."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aigc_edge.diffusion import checks
from aigc_edge.errors import ProgramError

VERSION = 1
MAX_SLOTS = 8
MAX_ROWS = 10_000
Matrix = tuple[tuple[float, ...], ...]

_PROGRAM_REQUIRED = ("version", "name", "slots", "init_scale", "guidance_scale", "rows")
_ROW_REQUIRED = ("timestep", "c_in", "c_skip", "c_out", "after")
_ROW_OPTIONAL = ("sigma", "guidance", "clip", "before", "before_noise", "after_noise")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One network evaluation and the arithmetic around it; S slots of the shape of the sample, slot 0 is the sample.

        before   slots ← before · slots + before_noise · ε        identity and no noise when None
        input    c_in · slot_0, with the network's time input `timestep`
        guide    F = F_uncond + w (F_cond − F_uncond),  w = 1 + guidance · (guidance_scale − 1)
        denoise  D = clip(c_skip · slot_0 + c_out · F)            no clipping when None
        after    slots ← after · [slots, D] + after_noise · ε

    `before` [S, S], `after` [S, S + 1], the noises [S]; each ε is one draw [N, C, H, W] of unit normal noise that all slots
    share. `sigma` is the noise level, for readers only. Raises ProgramError for numbers that are not finite or do not fit
    float32, for wrong sizes, a guidance outside 0 … 1 and a clip [low, high] without low < high.
    """

    timestep: float
    c_in: float
    c_skip: float
    c_out: float
    after: Matrix
    after_noise: tuple[float, ...] | None = None
    sigma: float = 0.0
    guidance: float = 1.0
    clip: tuple[float, float] | None = None
    before: Matrix | None = None
    before_noise: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:  # the one place where a frozen row is written
            object.__setattr__(self, name, value)

        for name in ("sigma", "timestep", "c_in", "c_skip", "c_out"):
            put(name, checks.number(getattr(self, name), name))
        put("guidance", checks.number(self.guidance, "guidance", 0.0, 1.0))
        if not isinstance(self.after, (list, tuple, np.ndarray)) or not 1 <= len(self.after) <= MAX_SLOTS:
            raise ProgramError(f"after must be 1 … {MAX_SLOTS} lists of numbers, one a slot, not {checks.show(self.after)}")
        slots = len(self.after)
        put("after", checks.matrix(self.after, slots, slots + 1, "after"))
        put("after_noise", (0.0,) * slots if self.after_noise is None else checks.numbers(self.after_noise, slots, "after_noise"))
        if self.before is not None:
            put("before", checks.matrix(self.before, slots, slots, "before"))
        if self.before_noise is not None:
            put("before_noise", checks.numbers(self.before_noise, slots, "before_noise"))
        if self.clip is not None:
            put("clip", checks.pair(self.clip, "clip"))
            if not np.float32(self.clip[0]) < np.float32(self.clip[1]):
                raise ProgramError(f"clip must be [low, high] with low < high in float32, not {list(self.clip)}")

    @property
    def slots(self) -> int:
        """How many slots the row works on."""
        return len(self.after)

    def to_json(self) -> dict[str, Any]:
        """The row as JSON; `before` and `before_noise` only where there are any."""
        value: dict[str, Any] = {n: getattr(self, n) for n in ("sigma", "timestep", "c_in", "c_skip", "c_out", "guidance")}
        value["clip"] = None if self.clip is None else list(self.clip)
        if self.before is not None:
            value["before"] = [list(row) for row in self.before]
        if self.before_noise is not None:
            value["before_noise"] = list(self.before_noise)
        return value | {"after": [list(row) for row in self.after], "after_noise": list(self.after_noise or ())}

    @staticmethod
    def from_json(value: Any) -> Row:
        """The row of a JSON object; raises ProgramError."""
        return Row(**checks.members(value, _ROW_REQUIRED, _ROW_OPTIONAL, "a row"))


@dataclass(frozen=True)
class Program:
    """Rows that an executor runs on `slots` slots, which start as slot_0 = init_scale · unit normal latents, others 0.

    The result is slot_0 after the last row. A program without rows is a one-shot generator: image = decoder(init_scale ·
    latents). `guidance_scale` is the classifier-free guidance scale, 1 = off. `meta` says how the program was made and has no
    effect. Raises ProgramError for anything that no executor can run.
    """

    name: str
    slots: int
    init_scale: float
    rows: tuple[Row, ...]
    guidance_scale: float = 1.0
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        if not isinstance(self.name, str) or not self.name:
            raise ProgramError(f"the name of a program must be text that is not empty, not {checks.show(self.name)}")
        put("slots", checks.integer(self.slots, "slots", 1, MAX_SLOTS))
        put("init_scale", checks.number(self.init_scale, "init_scale"))
        put("guidance_scale", checks.number(self.guidance_scale, "guidance_scale"))
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
            from aigc_edge.diffusion.importing import import_again

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
        given = checks.members(value, _PROGRAM_REQUIRED, ("meta",), "a program")
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
        that says why where it cannot be a table: discrete or adaptive steps, dynamic thresholding, learned variance, clipping
        that a row cannot do, or a residual above 1e-5.
        """
        from aigc_edge.diffusion.importing import import_scheduler

        return import_scheduler(scheduler, num_steps, name=name, guidance_scale=guidance_scale, **options).program

    def __str__(self) -> str:
        from aigc_edge.diffusion.table import render

        return render(self)


def _row(index: int, value: Any) -> Row:
    try:
        return Row.from_json(value)
    except ProgramError as error:
        raise ProgramError(f"row {index}: {error}") from None
