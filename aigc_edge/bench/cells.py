"""One place for how a figure of the benchmark reads, in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aigc_edge.text import digits, milliseconds, size

Figures = Mapping[str, Any]
NONE = "–"


def name(row: Figures) -> str:
    """ "aigc-edge fp32"."""
    return f"{row['title']} {row['format']}"


def by_key(figures: Figures) -> dict[str, Figures]:
    """The configurations by key."""
    return {row["key"]: row for row in figures["configurations"]}


def natives(figures: Figures) -> list[Figures]:
    """The rows of the native runtime."""
    return [row for row in figures["configurations"] if row["runner"] == "native"]


def large(figures: Figures) -> str:
    """The larger batch size, as the key that the latencies have."""
    return str(max(figures["settings"]["batches"]))


def against(figures: Figures, row: Figures, batch: str = "1") -> Figures | None:
    """The comparison of native in this row's format with this row, by time at a batch size."""
    ours = f"native-{row['format']}"
    found = (c for c in figures["comparisons"] if (c["ours"], c["theirs"], str(c["batch"])) == (ours, row["key"], batch))
    return next(found, None)


def p90(latency: Figures) -> str:
    """The 90th percentile, or that there are too few samples to name it."""
    return NONE if latency["p90"] is None else milliseconds(latency["p90"])


def spread(latency: Figures) -> str:
    """The quartiles in ms."""
    low, high = latency["quartiles"]
    return f"{digits(low * 1e3)} … {digits(high * 1e3)}"


def rate(latency: Figures) -> str:
    """Images a second."""
    return digits(latency["images_per_second"])


def memory(row: Figures, batch: str = "1") -> str:
    """Peak resident memory of a process that does nothing else."""
    return size(row["peak_bytes"][batch]) if "peak_bytes" in row else NONE


def cold(row: Figures) -> str:
    """From the start of a process to its first image."""
    return milliseconds(row["cold_start"]["total"]["median"]) if "cold_start" in row else NONE


def frechet(quality: Figures | None) -> tuple[str, str]:
    """The Fréchet distance, and its interval."""
    if not quality or quality.get("frechet") is None:
        return NONE, ""
    return digits(quality["frechet"]), f"{digits(quality['frechet_low'])} … {digits(quality['frechet_high'])}"


def accuracy(quality: Figures | None) -> str:
    """Share of images that the judge takes for the class that was asked for."""
    return NONE if not quality or quality.get("class_accuracy") is None else f"{quality['class_accuracy']:.1%}"


def likeness(row: Figures) -> str:
    """PSNR from the same noise: of a format to fp32 over all scored images, of a peer to native of its format over a few."""
    figures = row.get("quality") or {}
    if "relative_l2" not in figures:
        figures = row.get("agreement") or {}
    if "relative_l2" not in figures:
        return NONE
    return "equal" if figures["psnr"] is None else f"{figures['psnr']:.1f} dB"


def outside(row: Figures, of: str = "loop", batch: str = "1") -> str:
    """Share of the loop's time, or of the whole call's, that is not spent in the network."""
    share = row["latency"][batch].get("outside_network" if of == "loop" else "outside_network_call")
    return NONE if not share else f"{share['median']:.2%}"


def components(row: Figures) -> str:
    """Milliseconds of one image inside each network, with its share of all of them; those of text encoders are per opening."""
    seconds = row.get("components") or {}
    total = sum(seconds.values()) or 1.0
    return ", ".join(f"{part} {milliseconds(spent)} ({spent / total:.0%})" for part, spent in seconds.items())


def verdict(comparison: Figures | None) -> str:
    """The ratio and what it says."""
    return NONE if not comparison else f"{digits(comparison['ratio'])}× {comparison['verdict'].lower()}"


def warning(figures: Figures) -> str | None:
    """That the machine had other work when the benchmark began, which widens every spread; None when it had not."""
    load, cores = figures["machine"]["busy"]["before"].get("load", 0.0), figures["machine"]["cores"]
    if load < max(0.5, 0.25 * cores):
        return None
    return f"the machine was busy with other things (load average {load:.1f} on {cores} cores): measure again when it is idle"
