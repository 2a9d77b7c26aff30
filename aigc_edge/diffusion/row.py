"""One row of a sampling program: a network evaluation and the arithmetic around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from aigc_edge.diffusion import checks
from aigc_edge.errors import ProgramError

MAX_SLOTS = 8
Matrix = tuple[tuple[float, ...], ...]

_REQUIRED = ("timestep", "c_in", "c_skip", "c_out", "after")
_OPTIONAL = ("sigma", "level", "guidance", "clip", "threshold", "before", "before_noise", "after_output", "after_noise")
_WRITTEN_IF_SET = ("level", "threshold", "before", "before_noise", "after_output")  # in JSON


def identity(slots: int) -> Matrix:
    """The matrix that leaves all slots as they are."""
    return tuple(tuple(float(i == j) for j in range(slots)) for i in range(slots))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One network evaluation and the arithmetic around it, on S slots of the sample's shape; slot 0 is the sample.

        before   slots ← before · slots + before_noise · ε        identity and no noise when None
        input    c_in · slot_0, evaluated at `timestep`
        guide    F = F_uncond + w (F_cond − F_uncond),  w = 1 + guidance · (guidance_scale − 1)
        denoise  R = c_skip · slot_0 + c_out · F;  D = R clipped
        after    slots ← after · [slots, D] + after_output · F + after_noise · ε

    `before` [S, S], `after` [S, S + 1], `after_output` and the noises [S]; each ε is one draw [N, C, H, W] of unit normal noise
    that all slots share. D is R limited to `clip` (low, high), or by `threshold` (quantile, largest): dynamic thresholding, where
    the bound s is that quantile of a sample's |R|, clipped to 1 … largest, and D = clamp(R, −s, s) / s (Saharia et al. 2022).
    `level` (alpha, sigma): the network's input is c_in · (alpha · x0 + sigma · ε); inpainting brings the known image to it.
    `sigma` is the noise level, for display only. Raises ProgramError for numbers that are not finite or do not fit float32, wrong
    sizes, a guidance outside 0 … 1, a clip without low < high, a quantile outside 0 … 1 and a largest bound below 1.
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
    after_output: tuple[float, ...] | None = None
    threshold: tuple[float, float] | None = None
    level: tuple[float, float] | None = None

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
        for name in ("before_noise", "after_output"):
            if getattr(self, name) is not None:
                put(name, checks.numbers(getattr(self, name), slots, name))
        if self.level is not None:
            put("level", checks.pair(self.level, "level"))
        if self.threshold is not None:
            quantile, largest = checks.pair(self.threshold, "threshold")
            put("threshold", (checks.number(quantile, "the quantile of a threshold", 0.0, 1.0), largest))
            checks.number(largest, "the largest bound of a threshold", 1.0)
            if self.clip is not None:
                raise ProgramError("a row has a clip and a threshold: give one of them")
        if self.clip is not None:
            put("clip", checks.pair(self.clip, "clip"))
            if not np.float32(self.clip[0]) < np.float32(self.clip[1]):
                raise ProgramError(f"clip must be [low, high] with low < high in float32, not {list(self.clip)}")

    @property
    def slots(self) -> int:
        """Number of slots S."""
        return len(self.after)

    def to_json(self) -> dict[str, Any]:
        """The row as a JSON object; rare members are omitted where they are not set."""
        value: dict[str, Any] = {n: getattr(self, n) for n in ("sigma", "timestep", "c_in", "c_skip", "c_out", "guidance")}
        value["clip"] = None if self.clip is None else list(self.clip)
        for name in _WRITTEN_IF_SET:
            if (part := getattr(self, name)) is not None:
                value[name] = [list(line) for line in part] if name == "before" else list(part)
        return value | {"after": [list(row) for row in self.after], "after_noise": list(self.after_noise or ())}

    @staticmethod
    def from_json(value: Any) -> Row:
        """The row of a JSON object; raises ProgramError."""
        return Row(**checks.members(value, _REQUIRED, _OPTIONAL, "a row"))
