"""The SVG subset for the report's plots: shapes as text, a linear scale with readable ticks."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] of the data onto [start, end] of the picture."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        return self.start + (value - self.low) / span * (self.end - self.start) if span else (self.start + self.end) / 2

    def ticks(self, about: int = 6) -> list[float]:
        """Round numbers (1, 2 or 5 times a power of ten apart) inside the scale, about `about` of them."""
        span = self.high - self.low
        if not span > 0:
            return [self.low]
        rough = span / max(about, 1)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) for i in range(first, last + 1)]


def tick_text(value: float) -> str:
    """A tick's label: no trailing zeros, no exponent."""
    return f"{value:.10g}"


def element(name: str, content: str = "", **attributes: object) -> str:
    """One element; `class_` becomes class, underscores become hyphens, numbers get two decimals."""
    parts = []
    for key, value in attributes.items():
        shown = f"{value:.2f}" if isinstance(value, float) else str(value)
        parts.append(f' {key.rstrip("_").replace("_", "-")}="{html.escape(shown)}"')
    return f"<{name}{''.join(parts)}>{content}</{name}>" if content else f"<{name}{''.join(parts)}/>"


def label(x: float, y: float, content: str, class_: str = "label", anchor: str = "start") -> str:
    """A line of text whose baseline begins, centres or ends at (x, y)."""
    return element("text", html.escape(content), x=float(x), y=float(y), class_=class_, text_anchor=anchor)


def picture(width: int, height: int, title: str, *content: str) -> str:
    """An inline picture that scales with the page, as far as its text stays readable; `title` is read by screen readers."""
    head = element("title", html.escape(title))
    return element(
        "svg",
        head + "".join(content),
        viewBox=f"0 0 {width} {height}",
        role="img",
        class_="plot",
        width="100%",
        style=f"min-width: {width * 7 // 10}px",
    )
