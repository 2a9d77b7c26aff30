"""Quality budgets: how much worse than fp32, from the same noise, a format may be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aigc_edge.errors import AigcEdgeError

SYNTAX = "psnr=30 (dB, at least), frechet=1.05x (times that of fp32, at most)"


@dataclass(frozen=True)
class Budget:
    """What every format has to hold: a least PSNR in dB against fp32 from the same noise, and a Fréchet distance of at most
    `frechet` times that of fp32; None: no requirement."""

    psnr: float | None = None
    frechet: float | None = None

    def __post_init__(self) -> None:
        if self.psnr is not None and not 0 < self.psnr < 200:
            raise AigcEdgeError(f"the budget psnr={self.psnr:g} is out of range: give decibels between 0 and 200, such as 30")
        if self.frechet is not None and not 1 <= self.frechet < math.inf:
            raise AigcEdgeError(
                f"the budget frechet={self.frechet:g} is out of range: it is how many times the Fréchet distance of fp32 is "
                "allowed, at least 1"
            )

    @property
    def words(self) -> list[str]:
        """The texts that `parse` turns into this budget."""
        psnr = [] if self.psnr is None else [f"psnr={self.psnr:g}"]
        return psnr + ([] if self.frechet is None else [f"frechet={self.frechet:g}x"])

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
            if not equals or name not in ("psnr", "frechet") or math.isnan(number):
                raise AigcEdgeError(f"{item!r} is no budget: give {SYNTAX}")
            if name in limits:
                raise AigcEdgeError(f"the budget {name} was given twice: give each once")
            limits[name] = number
        return Budget(**limits)

    def missed(self, figures: Mapping[str, Any], reference: Mapping[str, Any]) -> str | None:
        """None when the `figures` of a format hold the budget, else what was reached and required, as part of a sentence.

        A `psnr` of None means equal images. Figures that are NaN never hold the budget.
        """
        psnr = math.inf if figures.get("psnr", math.nan) is None else figures.get("psnr", math.nan)
        if self.psnr is not None and not psnr >= self.psnr:
            return f"reaches a PSNR of {psnr:.1f} dB against fp32 from the same noise, {self.psnr:g} dB are required"
        if self.frechet is not None:
            reached, exact = figures.get("frechet", math.nan), reference.get("frechet", math.nan)
            if not reached <= self.frechet * exact:
                return f"has a Fréchet distance of {reached:.4g}, {self.frechet:g} times the {exact:.4g} of fp32 are allowed"
        return None

    def __str__(self) -> str:
        parts = [f"psnr={self.psnr:g}"] if self.psnr is not None else []
        parts += [f"frechet={self.frechet:g}x"] if self.frechet is not None else []
        return ",".join(parts)
