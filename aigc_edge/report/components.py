"""The components of a bundle's formats as the quality card has them: what each is stored in, what it costs, how long it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aigc_edge.bundle.manifest import Manifest
from aigc_edge.text import digits, milliseconds

HEADER = ("format", "component", "stored in", "PSNR alone", "centred L2 alone", "ms per image", "share of time")


def rows(manifest: Manifest) -> Iterator[list[str]]:
    """One row for each component of each format, under HEADER; none where the card does not have them."""
    for format, figures in manifest.quality.items():
        parts = _mapping(figures.get("components"))
        total = sum(_number(part.get("seconds")) or 0.0 for part in map(_mapping, parts.values()))
        for name, part in parts.items():
            entry = _mapping(part)
            seconds = _number(entry.get("seconds"))
            alone = "equal" if "psnr" in entry and entry["psnr"] is None else _text(entry.get("psnr"), " dB")
            time = "–" if seconds is None else milliseconds(seconds).removesuffix(" ms")
            share = "–" if seconds is None or not total else f"{seconds / total:.0%}"
            yield [format, str(name), str(entry.get("format", "–")), alone, _text(entry.get("centred_l2")), time, share]


def remarks(manifest: Manifest) -> Iterator[str]:
    """Why components are not in their format, what the figures were measured with, and what half precision costs."""
    for format, figures in manifest.quality.items():
        for name, part in _mapping(figures.get("components")).items():
            if reason := _mapping(part).get("reason"):
                yield f"{format}: the {name} is stored in {_mapping(part).get('format')}: {reason}"
            for engine, own in _mapping(_mapping(part).get("engines")).items():
                why = f": {_mapping(own).get('reason')}" if _mapping(own).get("reason") else ""
                yield f"{format}: the {name} for {engine} is stored in {_mapping(own).get('format')}{why}"
        if measured := _mapping(figures.get("measured")):
            listed = measured.get("instructions")
            has = ", ".join(map(str, listed)) if isinstance(listed, list) and listed else "instructions unknown"
            yield f"{format}: measured with {measured.get('engine')} on {measured.get('architecture')} ({has})"
        for precision, card in _mapping(figures.get("precisions")).items():
            if isinstance(card, str):
                yield f"{format}: {card}"
            for engine, entry in _mapping(card).items():
                known = _mapping(entry)
                verdict = "holds the budget: the default" if known.get("passed") is True else "misses the budget: on request only"
                yield f"{format} with floats in {precision} ({engine}): PSNR {_text(known.get('psnr'), ' dB')}, {verdict}"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _text(value: Any, unit: str = "") -> str:
    number = _number(value)
    return "–" if number is None else f"{number:.1f}{unit}" if unit else digits(number)
