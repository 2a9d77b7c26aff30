"""Quality budgets: how much worse than fp32, from the same noise, a format may be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from aigc_edge.compress.evaluation.quality import Requirement
from aigc_edge.errors import AigcEdgeError

SYNTAX = (
    "psnr=30 (dB, at least), centred_l2=0.3 (error relative to what varies, at most), ssim=0.9 (at least), frechet=1.05x (times "
    "that of fp32, at most)"
)
SLACK = 3.0  # dB: the evaluation draws other noise than the conversion, and fewer or more samples


@dataclass(frozen=True)
class Budget:
    """What every format has to hold against fp32 from the same noise; None: what follows from the format's own PSNR.

    `psnr` in dB is the least, its peak the range of the fp32 samples; `centred_l2` is the largest error relative to what varies
    in them; `ssim` is the least, for images. A Fréchet distance is at most `frechet` times that of fp32 (None: no requirement).
    """

    psnr: float | None = None
    frechet: float | None = None
    centred_l2: float | None = None
    ssim: float | None = None

    def __post_init__(self) -> None:
        allowed = {
            "psnr": (0, 200, "decibels between 0 and 200, such as 30"),
            "centred_l2": (0, 10, "the error relative to what varies, between 0 and 10, such as 0.3"),
            "ssim": (-1, 1, "a structural similarity between -1 and 1, such as 0.9"),
        }
        for name, (low, high, what) in allowed.items():
            value = getattr(self, name)
            if value is not None and not low < value < high:
                raise AigcEdgeError(f"the budget {name}={value:g} is out of range: give {what}")
        if self.frechet is not None and not 1 <= self.frechet < math.inf:
            raise AigcEdgeError(
                f"the budget frechet={self.frechet:g} is out of range: it is how many times the Fréchet distance of fp32 is "
                "allowed, at least 1"
            )

    @property
    def words(self) -> list[str]:
        """The texts that `parse` turns into this budget."""
        limits = {item.name: getattr(self, item.name) for item in fields(self)}
        return [f"{name}={limit:g}{'x' * (name == 'frechet')}" for name, limit in limits.items() if limit is not None]

    @staticmethod
    def parse(texts: Sequence[str]) -> Budget:
        """Parse texts such as "psnr=30" and "frechet=1.05x"; one text may hold several, separated by commas.

        Raises AigcEdgeError for anything else, with the accepted syntax.
        """
        limits: dict[str, float] = {}
        for item in (part.strip() for text in texts for part in text.split(",")):
            name, equals, value = item.partition("=")
            try:
                number = float(value.removesuffix("x") if name == "frechet" else value)
            except ValueError:
                number = math.nan
            if not equals or name not in {item.name for item in fields(Budget)} or math.isnan(number):
                raise AigcEdgeError(f"{item!r} is no budget: give {SYNTAX}")
            if name in limits:
                raise AigcEdgeError(f"the budget {name} was given twice: give each once")
            limits[name] = number
        return Budget(**limits)

    def completed(self, requirement: Requirement | None) -> Budget:
        """This budget with what follows from a format's own `requirement` where it says nothing."""
        if requirement is None:
            return self
        if requirement.psnr <= SLACK:  # any PSNR
            own = requirement.centred_l2 or None
            return replace(self, centred_l2=own if self.centred_l2 is None else self.centred_l2)
        least = Requirement(requirement.psnr - SLACK, requirement.centred_l2)
        return replace(
            self,
            psnr=least.psnr if self.psnr is None else self.psnr,
            centred_l2=least.most_centred_l2 if self.centred_l2 is None else self.centred_l2,
            ssim=(least.least_ssim or None) if self.ssim is None else self.ssim,
        )

    def missed(self, figures: Mapping[str, Any], reference: Mapping[str, Any]) -> str | None:
        """None when the `figures` of a format hold the budget, else what was reached and required, as part of a sentence.

        A `psnr` of None means equal results, a `centred_l2` of None a reference that does not vary. Figures that are NaN never
        hold the budget. Without the figure `ssim`, for what is no image, its limit is not checked.
        """
        psnr = math.inf if figures.get("psnr", math.nan) is None else figures.get("psnr", math.nan)
        if self.psnr is not None and not psnr >= self.psnr:
            return f"reaches a PSNR of {psnr:.1f} dB against fp32 from the same noise, {self.psnr:g} dB are required"
        if self.centred_l2 is not None and psnr != math.inf:
            error = math.inf if figures.get("centred_l2", math.nan) is None else figures.get("centred_l2", math.nan)
            if not error <= self.centred_l2:
                return (
                    f"has a centred L2 error of {error:.3g} against fp32 from the same noise (relative to what varies in its "
                    f"samples), {self.centred_l2:.3g} is allowed"
                )
        if self.ssim is not None and not figures.get("ssim", 1.0) >= self.ssim:
            return f"reaches an SSIM of {figures['ssim']:.3f} against fp32 from the same noise, {self.ssim:.3g} is required"
        if self.frechet is not None:
            reached, exact = figures.get("frechet", math.nan), reference.get("frechet", math.nan)
            if not reached <= self.frechet * exact:
                return f"has a Fréchet distance of {reached:.4g}, {self.frechet:g} times the {exact:.4g} of fp32 are allowed"
        return None

    def __str__(self) -> str:
        return ",".join(self.words)
