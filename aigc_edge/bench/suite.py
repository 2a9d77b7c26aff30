"""The whole benchmark of one bundle, in one run, as one JSON value: speed, memory, size and quality of every configuration."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_edge import __version__
from aigc_edge.bench import child, machine, quality
from aigc_edge.bench.measure import interleaved
from aigc_edge.bench.runner import RUNNERS, Runner, Workload, key, opened
from aigc_edge.bench.statistics import compare, summary
from aigc_edge.errors import AigcEdgeError

VERSION = 1
AGREE_ON = 16  # images from the same latents, compared between runners
ABOUT = ("name", "family", "sample_shape", "output_shape", "classes", "default_format", "provenance", "created")  # no path
Say = Callable[[str], None]
Clocks = dict[str, list[tuple[float, float]]]
Components = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Settings:
    """How much is measured. `runs` timed rounds at batch 1, a quarter of it at `batch`."""

    runs: int = 100
    batch: int = 16
    warmup: int = 5
    cold_starts: int = 3
    quality_images: int = 1000
    seed: int = 0
    formats: tuple[str, ...] = ()

    def rounds(self, batch: int) -> int:
        """Timed rounds at a batch size: larger batches take longer and vary less."""
        return self.runs if batch == 1 else max(self.runs // 4, 1)


def choose(workload: Workload, wanted: Sequence[str]) -> tuple[list[tuple[type[Runner], str]], dict[str, str]]:
    """The configurations that can run here, and why other runners cannot; raises AigcEdgeError for a format the bundle lacks."""
    there = list(workload.network.formats)
    lacking = [format for format in wanted if format not in there]
    if lacking:
        raise AigcEdgeError(f"{workload.bundle} has no format {lacking[0]!r}: choose of {', '.join(there)}")
    formats = [format for format in there if not wanted or format in wanted]
    chosen: list[tuple[type[Runner], str]] = []
    left_out: dict[str, str] = {}
    for runner in sorted((RUNNERS[name] for name in RUNNERS), key=lambda runner: runner.order):
        engine = runner.engines.get(workload.device)
        reason = runner.unavailable(workload)
        if engine is None:
            reason = f"it computes on {' and '.join(runner.engines)} only, not on {workload.device}"
        if reason:
            left_out[runner.name] = reason
            continue
        allowed = ("fp32",) if engine == "torch" else runner.formats
        chosen += [(runner, format) for format in formats if allowed is None or format in allowed]
    return chosen, left_out


def timed(
    runners: Mapping[str, Runner],
    workload: Workload,
    batch: int,
    settings: Settings,
    say: Say,
    components: Components | None = None,
) -> tuple[dict[str, list[float]], Clocks]:
    """Seconds of every call in every round, and what a runner's own clock said of it where it has one (`Runner.seconds`).

    The seconds inside each network are appended to `components`, by runner and component.
    """
    labels = workload.labels(batch)
    clocks: Clocks = {name: [] for name in runners}

    def call(runner: Runner) -> Callable[[int], NDArray[np.uint8]]:
        return lambda turn: runner.generate(batch, (settings.seed + turn * batch) % 2**63, labels)

    def after(name: str) -> None:
        said = runners[name].seconds()
        if said is not None:
            clocks[name].append(said)
        if components is not None:
            for part, spent in runners[name].component_seconds().items():
                components.setdefault(name, {}).setdefault(part, []).append(spent)

    seconds = interleaved(
        {name: call(runner) for name, runner in runners.items()},
        settings.rounds(batch),
        warmup=settings.warmup,
        after=after,
        progress=lambda done, total: say(f"batch {batch}: round {done} of {total}"),
    )
    return seconds, clocks


def latency(seconds: Sequence[float], clock: Sequence[tuple[float, float]], batch: int) -> dict[str, Any]:
    """The figures of one configuration at one batch size; `samples` are the raw seconds in the order of the rounds.

    Where the runner has a clock of its own, "outside_network" is the share of its loop that is not the network's, and
    "outside_network_call" that share of the whole call as the application sees it.
    """
    figures: dict[str, Any] = summary(seconds) | {"samples": list(seconds)}
    figures["images_per_second"] = batch / figures["median"]
    if clock:
        figures["loop_samples"] = [loop for loop, _ in clock]
        figures["network_samples"] = [network for _, network in clock]
        figures["outside_network"] = summary([1 - network / loop for loop, network in clock])
        shares = [1 - network / whole for whole, (_, network) in zip(seconds, clock, strict=True)]
        figures["outside_network_call"] = summary(shares)
    return figures


def comparisons(seconds: Mapping[str, Mapping[str, Sequence[float]]]) -> list[dict[str, Any]]:
    """Native against every peer of its format, and against fp32 of its own, round by round."""
    found = []
    for batch, rows in seconds.items():
        for ours in (name for name in rows if name.startswith("native-")):
            format = ours.partition("-")[2]
            peers = [name for name in rows if name != ours and (name.endswith(f"-{format}") or name == "native-fp32")]
            found += [{"batch": int(batch), "ours": ours, "theirs": peer} | compare(rows[ours], rows[peer]) for peer in peers]
    return found


def sizes(workload: Workload, format: str) -> dict[str, int]:
    """Bytes of the networks in this format, and of the whole bundle."""
    manifest, networks = workload.manifest, []
    for component in manifest.components.values():
        if component.table:  # of a schedule its table is read, not its network
            networks.append(component.table.file)
        elif format in component.formats:
            networks.append(component.file(format))
    return {"networks": sum(map(manifest.bytes_of, networks)), "bundle": manifest.total_bytes}


def isolated(workload: Workload, name: str, settings: Settings) -> dict[str, Any]:
    """Cold start (median of several processes, each part by itself) and peak memory of one configuration."""
    starts = [child.measure(workload, name, settings.batch) for _ in range(settings.cold_starts)]
    parts = {part: [start["seconds"][part] for start in starts] for part in starts[0]["seconds"]}
    cold = {part: {"median": float(np.median(values)), "samples": values} for part, values in parts.items()}
    peaks = {batch: int(np.median([start["peak_bytes"][batch] for start in starts])) for batch in starts[0]["peak_bytes"]}
    return {"cold_start": cold, "peak_bytes": peaks}


def bench(workload: Workload, settings: Settings, say: Say = lambda message: None) -> dict[str, Any]:
    """Measure everything; returns the JSON value that `aigc-edge bench --json` writes. `say` hears what is going on."""
    chosen, left_out = choose(workload, settings.formats)
    names = [key(runner, format) for runner, format in chosen]
    before = machine.busy()
    batches = sorted({1, settings.batch})
    with opened(workload, names) as runners:
        agrees = quality.agreement(runners, workload, AGREE_ON, settings.seed)
        inside: Components = {}
        runs = {str(batch): timed(runners, workload, batch, settings, say, inside if batch == 1 else None) for batch in batches}
        native = {name.partition("-")[2]: runner for name, runner in runners.items() if runner.name == "native"}
        scores: dict[str, dict[str, Any]] = {}
        if settings.quality_images:
            drawn = [0]

            def progress(size: int) -> None:
                drawn[0] += size
                say(f"quality: {drawn[0]} of {settings.quality_images * len(native)} images")

            scores = quality.score(native, workload, settings.quality_images, progress)
    rows = []
    for (runner, format), name in zip(chosen, names, strict=True):
        row: dict[str, Any] = {"key": name, "runner": runner.name, "title": runner.title, "format": format}
        row["engine"] = runner.engines[workload.device]
        row["latency"] = {batch: latency(seconds[name], clocks[name], int(batch)) for batch, (seconds, clocks) in runs.items()}
        row["components"] = {part: float(np.median(spent)) for part, spent in inside.get(name, {}).items()}
        row["bytes"] = sizes(workload, format)
        if runner.name != "network" and settings.cold_starts:
            say(f"cold start and memory: {name}")
            row |= isolated(workload, name, settings)
        if runner.name == "native":
            row["quality"] = scores.get(format)
        row["agreement"] = agrees.get(name)
        rows.append(row)
    members = workload.manifest.to_json()
    return {
        "version": VERSION,
        "tool": f"aigc-edge {__version__}",
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine.fingerprint() | {"busy": {"before": before, "after": machine.busy()}},
        "bundle": {name: members[name] for name in ABOUT},
        "settings": {
            "solver": workload.solver,
            "steps": workload.steps,
            "guidance_scale": workload.guidance,
            "threads": workload.threads,
            "device": workload.device,
            "batches": batches,
            "rounds": {str(batch): settings.rounds(batch) for batch in batches},
            "warmup_rounds": settings.warmup,
            "cold_starts": settings.cold_starts,
            "quality_images": settings.quality_images,
            "seed": settings.seed,
        },
        "configurations": rows,
        "comparisons": comparisons({batch: seconds for batch, (seconds, _) in runs.items()}),
        "left_out": left_out,
    }
