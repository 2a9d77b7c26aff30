"""The sampling program: a solver, a noise schedule and guidance compiled into rows of numbers that every executor runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aigc_edge.diffusion import checks
from aigc_edge.diffusion.row import MAX_SLOTS, Row
from aigc_edge.errors import ProgramError

VERSION = 1
MAX_ROWS = 10_000

_REQUIRED = ("version", "name", "slots", "init_scale", "guidance_scale", "rows")
_OPTIONAL = ("guidance_rescale", "meta")


@dataclass(frozen=True)
class Program:
    """Rows to be executed on `slots` slots, which start as slot_0 = init_scale · unit normal latents and 0 in the others.

    The result is slot_0 after the last row. A program without rows is a one-shot generator: image = decoder(init_scale ·
    latents). `guidance_scale` is the scale of classifier-free guidance, 1 = off; `guidance_rescale` 0 … 1 interpolates the
    standard deviation of the guided output towards that of the conditional one (Lin et al. 2024), 0 = off. `meta` records how the
    program was made and has no effect. Raises ProgramError for values that no executor can run.
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
        put("rows", tuple(_bounded(self.rows)))
        for index, row in enumerate(self.rows):
            if not isinstance(row, Row):
                raise ProgramError(f"row {index} must be a Row, not {checks.show(row)}")
            if row.slots != self.slots:
                raise ProgramError(f"row {index} works on {row.slots} slots, the program has {self.slots}")

    @property
    def nfe(self) -> int:
        """Number of network function evaluations; a guided row counts once, with a doubled batch."""
        return len(self.rows)

    @property
    def weights(self) -> tuple[float, ...]:
        """The guidance weight w of each row; where it is 1 the unconditional half is not evaluated."""
        return tuple([1.0 + row.guidance * (self.guidance_scale - 1.0) for row in self.rows])

    @property
    def sample_evaluations(self) -> int:
        """Network evaluations per sample: a guided row counts twice."""
        return sum(1 if w == 1.0 else 2 for w in self.weights)

    @property
    def draws(self) -> tuple[int, ...]:
        """Indices of the noise draws that the rows add: 2 r + 1 before and 2 r + 2 after row r; the latents are draw 0."""
        indices = []
        for index, row in enumerate(self.rows):
            indices += [2 * index + 1] if any(row.before_noise or ()) else []
            indices += [2 * index + 2] if any(row.after_noise or ()) else []
        return tuple(indices)

    def with_guidance(self, scale: float | None, rescale: float | None = None) -> Program:
        """A copy with another guidance scale and rescale; None keeps the program's own."""
        if scale is None and rescale is None:
            return self
        scale = self.guidance_scale if scale is None else scale
        rescale = self.guidance_rescale if rescale is None else rescale
        return dataclasses.replace(self, guidance_scale=scale, guidance_rescale=rescale)

    def add_noise(self, image: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Latents of a truncated program from `image` [N, C, H, W] in the output range and unit normal `noise` of its shape.

        Raises ProgramError for a program that starts from pure noise, and for shapes that differ.
        """
        start = self.meta.get("start")
        if start is None:
            raise ProgramError(f"program {self.name!r} starts from pure noise: shorten it with truncate(program, strength)")
        if np.shape(image) != np.shape(noise):
            raise ProgramError(f"noise must be of the image's shape {np.shape(image)}, not {np.shape(noise)}")
        return (start["alpha"] * np.asarray(image) + start["sigma"] * np.asarray(noise)) / self.init_scale

    def to_json(self) -> dict[str, Any]:
        """The program as a JSON object; `from_json` returns an equal program."""
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
        """The program of a JSON object; raises ProgramError, which names the row and what is wrong with it."""
        if isinstance(value, Mapping) and "version" in value:  # first: a newer version may well have members unknown here
            version = checks.integer(value["version"], "the version of a program", 1, 2**31 - 1)
            if version > VERSION:
                raise ProgramError(f"the program is of version {version}, this aigc-edge reads up to {VERSION}: update aigc-edge")
        members = checks.members(value, _REQUIRED, _OPTIONAL, "a program")
        del members["version"]
        rows = [_row(index, row) for index, row in enumerate(_bounded(members.pop("rows")))]
        return Program(rows=tuple(rows), **members)


def _bounded(rows: Any) -> Sequence[Any]:
    if not isinstance(rows, (list, tuple)):
        raise ProgramError(f"rows must be a list, not {checks.show(rows)}")
    if len(rows) > MAX_ROWS:
        raise ProgramError(f"a program may have at most {MAX_ROWS} rows, not {len(rows)}: take fewer steps")
    return rows


def _row(index: int, value: Any) -> Row:
    try:
        return Row.from_json(value)
    except ProgramError as error:
        raise ProgramError(f"row {index}: {error}") from None
