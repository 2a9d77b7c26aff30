"""Render the generated tables: benchmarks/README.md from the committed results, docs/formats.md from the formats and targets.

    python tools/readme_tables.py            write them
    python tools/readme_tables.py --check    exit with 1 when one is out of date

A table stands between the comments `<!-- NAME:begin … -->` and `<!-- NAME:end -->`; everything around it is written by hand.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from aigc_edge import targets
from aigc_edge.bench import cells
from aigc_edge.compress.format import FORMATS, parse
from aigc_edge.engines.formats import runs_on
from aigc_edge.text import digits, milliseconds, size

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SHAPE = (1024, 1024)  # of the weight whose size in each format is tabulated
COLUMNS = {
    "x86": "x86-cpu",
    "Arm": "arm-cpu",
    "Orin": "jetson-orin-agx",
    "Thor": "jetson-thor",
    "RTX 20": "rtx-20",
    "RTX 30": "rtx-30",
    "RTX 40": "rtx-40",
    "RTX 50": "rtx-50",
    "A100": "a100",
    "L4, L40S": "l4",
    "H100, H200": "h100",
    "B200": "b200",
}
Figures = Mapping[str, Any]


def load(name: str) -> dict[str, Any]:
    """The figures of benchmarks/results/NAME.json."""
    figures: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return figures


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], align: str = "--:") -> str:
    """A table whose first column is left-aligned."""
    lines = [head, ["---", *[align] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def environment(figures: Figures) -> str:
    """CPU, system and library versions of a run, in one sentence."""
    machine = figures["machine"]
    versions = machine["versions"]
    names = ("python", "onnxruntime", "torch", "diffusers")
    listed = ", ".join(f"{'Python' if name == 'python' else name} {versions[name]}" for name in names if name in versions)
    vector = ", ".join(flag.replace("avx512f", "AVX-512").replace("avx512_vnni", "VNNI") for flag in machine["flags"]
                       if flag in ("avx512f", "avx512_vnni"))  # fmt: skip
    family, model = machine["family"].split()[1:3]
    return (
        f"{machine['cpu']} (family {family}, model {model}; {machine['cores']} cores{'; ' if vector else ''}{vector}), "
        f"{machine['system'].removeprefix('Linux ')}, {listed}."
    )


def ratio(value: Figures) -> str:
    """A median ratio with its quartiles."""
    low, high = (digits(quartile) for quartile in value["quartiles"])
    return f"{digits(value['median'])}× ({low} … {high})"


def bench() -> str:
    """The demo's bundle against other implementations that run the same network, with quality on the same row."""
    figures = load("demo-x86-vnni")
    large, settings = cells.large(figures), figures["settings"]
    rows = []
    for row in figures["configurations"]:
        one, quality, comparison = row["latency"]["1"], row.get("quality"), cells.against(figures, row)
        distance, interval = cells.frechet(quality)
        name = cells.name(row)
        rows.append([
            f"**{name}**" if row in cells.natives(figures) else name, milliseconds(one["median"]), cells.p90(one),
            f"{cells.rate(one)}, {cells.rate(row['latency'][large])} at {large}",
            f"{digits(comparison['ratio'])}×" if comparison else cells.NONE,
            size(row["bytes"]["networks"]), cells.memory(row), cells.cold(row),
            f"{distance} ({interval})" if interval else distance, cells.accuracy(quality), cells.likeness(row),
        ])  # fmt: skip
    head = ["", "latency p50", "p90", "images/s", "aigc-edge is faster by", "network", "peak memory", "cold start"]
    head += ["Fréchet distance", "class accuracy", "PSNR"]
    native = cells.natives(figures)
    outside = ", ".join(f"{cells.outside(row)} ({row['format']})" for row in native)
    judge = next(row["quality"]["judge_accuracy"] for row in native if row.get("quality"))
    note = (
        f"{settings['solver']}, {settings['steps']} steps, guidance scale {settings['guidance_scale']:g}, {settings['threads']} "
        f"thread; medians of {settings['rounds']['1']} interleaved rounds. Fréchet distance (95 % interval) and class accuracy "
        f"over {settings['quality_images']} images a format, by a classifier of {judge:.1%} held-out accuracy. PSNR of a format "
        f"is to fp32, of a peer to aigc-edge in the same format. Time of the native loop outside the network: {outside}."
    )
    return f"{markdown(head, rows)}\n\n{note} {environment(figures)}"


def core() -> str:
    """Solver step and noise against their peers."""
    figures = load("sampling-x86-v4")
    rows = []
    for shape, one in figures["step"].items():
        times = f"{one['ours_us']:.2f} µs against {one['diffusers_us']:.0f} µs"
        name = f"one UniPC step, {shape.replace('x', ' × ')}"
        rows.append([name, "diffusers `scheduler.step`", ratio(one["times_as_fast"]), times])
    for nbytes, one in figures["bandwidth"].items():
        rate = f"copy: {one['copy_gb_per_s']:.0f} GB/s"
        rows.append([f"one step on a batch of {nbytes}", "copy of as many bytes", ratio(one["share_of_copy"]), rate])
    for shape, one in figures["normals"].items():
        rate = f"{one['million_a_second']:.0f} M/s"
        rows.append([f"normal numbers, {shape.replace('x', ' × ')}", "torch `normal_`", ratio(one["times_as_fast"]), rate])
    note = "One thread; both take turns, medians of the rounds' ratios (quartiles)."
    return f"{markdown(['', 'peer', 'speed-up', ''], rows)}\n\n{note} {environment(figures)}"


def loops() -> str:
    """Whole samples against diffusers around the same onnxruntime session, by network and scheduler."""
    figures, rows = load("sampling-x86-v4"), []
    for entry in figures["loops"].values():
        peers = entry["peers"].values()
        outside = [100 * one["outside_network"]["median"] for one in peers]
        share = f"{digits(min(outside), 2)} … {digits(max(outside), 2)} %"
        rows.append([f"UNet, {entry['parameters']:.1f} M", *(ratio(one["times_as_fast"]) for one in peers), share])
    names = [peer.removesuffix("Scheduler").removesuffix("Discrete").removesuffix("Multistep") for peer in entry["peers"]]
    note = (
        "Batch 1, 20 steps, 3 × 32 × 32, one thread; both take turns, medians of the rounds' ratios (quartiles). Pixels are "
        "equal. The last column is the share of aigc-edge's time outside the network."
    )
    return f"{markdown(['speed-up', *names, 'outside the network'], rows)}\n\n{note} {environment(figures)}"


def int8() -> str:
    """int8 against the best fp32 engine and against NNCF, by network and number of threads."""
    figures = load("int8-x86-vnni")
    rows = []
    for name, entry in figures["networks"].items():
        for threads, one in entry["threads"].items():
            against = [
                ratio({"median": one[peer]["ratio"], "quartiles": one[peer]["quartiles"]})
                for peer in ("against_fp32", "against_nncf")
            ]
            engine = one["ours"].partition(" ")[0]
            rows.append([
                f"{name}, {entry['parameters'] / 1e6:.1f} M", threads, engine, *against, f"{digits(one['error_of_nncf'])}×",
                f"{one['psnr']:.1f} dB",
            ])  # fmt: skip
    head = ["network", "threads", "engine", "speed-up over best fp32", "speed-up over NNCF int8", "error relative to NNCF int8"]
    note = "Medians of interleaved rounds (quartiles); random weights. The versions of OpenVINO and NNCF were not recorded."
    return f"{markdown([*head, 'PSNR to fp32'], rows)}\n\n{note} {environment(figures)}"


def full_size() -> str:
    """Stable Diffusion 1.5 at its real size against diffusers' own pipeline, by format."""
    figures = load("full-size")
    peer = figures["diffusers"]
    rows = [["diffusers fp32", "–", f"{peer['peak_bytes'] / 1e9:.1f} GB", f"{peer['open_seconds']:.1f} s", "1×", "–"]]
    for name, one in figures["formats"].items():
        ratios, first = one["times_diffusers"], one["first"]
        rows.append([
            f"`{name}`", size(sum(one["bytes"].values())),
            f"{one['peak_bytes'] / 1e9:.1f} GB ({first['peak_bytes'] / 1e9:.1f})",
            f"{one['open_seconds']:.1f} s ({first['open_seconds']:.1f})",
            f"{digits(median(ratios))}× ({digits(ratios[0])} … {digits(ratios[-1])})", f"{one['psnr_to_diffusers']:.1f} dB",
        ])  # fmt: skip
    head = [
        "",
        "networks",
        "peak memory (first open)",
        "time to open (first open)",
        "speed-up over diffusers",
        "PSNR to diffusers",
    ]
    compiled = figures["compile"]
    note = (
        f"{figures['size'][0]} × {figures['size'][1]} pixels, {figures['steps']} steps, guidance scale 7.5, {figures['threads']} "
        "threads, random weights; medians of interleaved rounds (minimum … maximum). Compiling the four formats took "
        f"{compiled['seconds'] / 60:.0f} minutes and {compiled['peak_bytes'] / 1e9:.1f} GB, {compiled['peak_ratio'] - 1:.0%} "
        "more memory than `aigc-edge plan` had predicted."
    )
    return f"{markdown(head, rows)}\n\n{note} {environment(figures)}"


def compiling() -> str:
    """Time and memory of compiling, and the ratio of what happened to what `aigc-edge plan` had predicted."""
    figures = load("compile")
    rows = []
    for title, entry in (
        ("UNet in pixels", figures["unet"]), ("DiT-S/2", figures["dit"]), ("latent UNet and decoder", figures["latent"])
    ):  # fmt: skip
        formats = entry["formats"]
        worst = max((one["memory_ratio"] for one in formats.values()), key=lambda value: abs(value - 1))
        times = ", ".join(f"{digits(one['time_ratio'])}× {name}" for name, one in formats.items())
        rows.append([
            f"{title}, {entry['parameters'] / 1e6:.0f} M", ", ".join(formats), f"{entry['seconds']:.0f} s",
            size(entry["peak_bytes"]), f"{digits(entry['bundle_ratio'])}×", f"{digits(entry['peak_ratio'])}×",
            f"{digits(worst)}×", times,
        ])  # fmt: skip
    head = ["network", "formats", "compile time", "peak memory", "bundle size / predicted", "compile memory / predicted"]
    head += ["sampling memory / predicted (worst)", "time of an image / lower bound"]
    note = f"{figures['threads']} threads, random weights. The memory model's constants were fitted to these three networks."
    return f"{markdown(head, rows)}\n\n{note} {environment(figures)}"


def format_sizes() -> str:
    """Size of the network's file in every format."""
    figures = load("format-sizes")
    names = list(figures["unet"]["formats"])
    rows = [
        [f"{title}, {figures[key]['parameters'] / 1e6:.0f} M"]
        + [f"{digits(figures[key]['formats'][name]['share'])}×" for name in names]
        for key, title in (("unet", "UNet"), ("dit", "DiT-S/2"))
    ]
    return f"{markdown(['file size / fp32', *(f'`{name}`' for name in names)], rows)}\n\n{environment(figures)}"


def tuned() -> str:
    """Tuned programs against the best standard solver of as many evaluations."""
    rows, runs = [], [load(f"tuned-{name}") for name in ("digits", "photos")]
    for figures in runs:
        for nfe, entry in figures["nfe"].items():
            best = entry["standard"][entry["best"]]
            rows.append([
                f"{figures['bundle']}, {nfe} evaluations", f"{entry['tuned']['psnr']:.1f} dB",
                f"{best['psnr']:.1f} dB ({entry['best']})",
                f"+{entry['gain']:.1f} dB ({entry['gain_low']:.1f} … {entry['gain_high']:.1f})",
                f"{digits(entry['tuned']['frechet'])} / {digits(best['frechet'])}",
            ])  # fmt: skip
    references = ", ".join(f"{digits(run['reference_distance']['frechet'])} ({run['bundle']})" for run in runs)
    note = (
        f"PSNR to {runs[0]['reference'].partition(', ')[2]} of Heun's method from the same, held-out noise; those samples have "
        f"the Fréchet distance {references}."
    )
    head = ["", "tuned", "best standard solver", "gain", "Fréchet distance, tuned / standard"]
    return f"{markdown(head, rows)}\n\n{note} {environment(runs[0])}"


def tiles() -> str:
    """Decoding and denoising in tiles: likeness to the whole, seams, memory."""
    figures, rows = load("tiles"), []
    for one in figures["seams"]:
        what = f"decoder of {one['structure']}, tiles of {one['tile'][0]} × {one['tile'][1]}"
        likeness = "equal" if one["psnr"] is None else f"{one['psnr']:.1f} dB"
        rows.append([what, f"{one['overlap']}{' (default)' if one['default'] else ''}", likeness, f"{one['seam']:.3f}"])
    for one in figures["denoising"]:
        what = f"denoiser, tiles of {one['tile'][0]} × {one['tile'][1]}"
        rows.append([what, f"{one['overlap']}{' (default)' if one['default'] else ''}", "–", f"{one['seam']:.2f}"])
    parts = []
    for one in figures["memory"]:
        whole = one["tile"] == one["size"]
        how = "whole" if whole else f"in tiles of {one['tile']} × {one['tile']}"
        parts.append(f"{one['size']} × {one['size']} pixels {how}: {size(one['above_bytes'])}")
    note = (
        f"Memory above that after opening, for a decoder of Stable Diffusion's structure whose widths begin with "
        f"{figures['memory'][0]['width']}: {'; '.join(parts)}."
    )
    head = ["", "overlap in pixels", "PSNR to the whole", "gradient at borders, relative"]
    return f"{markdown(head, rows)}\n\n{note} {environment(figures)}"


def formats() -> str:
    """A row a format: its size relative to fp32, then whether each target runs it."""
    shown = {column: targets.get(name) for column, name in COLUMNS.items()}
    sizes = {name: parse(name).weight_bytes(*SHAPE, False) / (4 * SHAPE[0] * SHAPE[1]) for name in FORMATS}
    rows = [
        [f"`{name}`", f"{sizes[name]:.3g}×", *("yes" if runs_on(FORMATS[name], target) else "–" for target in shown.values())]
        for name in sorted(sizes, key=lambda name: (-sizes[name], name))
    ]
    return markdown(["format", "weights / fp32", *COLUMNS], rows, ":-:")


def options() -> str:
    """Every option of the formats with its explanation, and the formats that have it with their defaults."""
    defaults_of: dict[tuple[str, str], dict[str, str]] = {}
    for name in FORMATS:
        for field in dataclasses.fields(FORMATS[name]):
            allowed = field.metadata.get("choices")
            text = field.metadata["help"] + (f" ({', '.join(map(str, allowed))})" if allowed else "")
            default = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
            defaults_of.setdefault((field.name, text), {})[name] = default
    rows = []
    for (option, text), defaults in sorted(defaults_of.items()):
        shown = [f"`{name}` {default}" for name, default in defaults.items()]
        rows.append([f"`{option}`", text, ", ".join(shown)])
    return markdown(["option", "meaning", "formats and their defaults"], rows, ":--")


TABLES = {
    "benchmarks/README.md": {
        "bench": bench,
        "core": core,
        "loops": loops,
        "int8": int8,
        "full-size": full_size,
        "compile": compiling,
        "format-sizes": format_sizes,
        "tuned": tuned,
        "tiles": tiles,
    },
    "docs/formats.md": {"formats": formats, "options": options},
}


def replaced(text: str, name: str, table: str) -> str:
    """`text` with the part between the marks of `name` replaced."""
    before, begin, rest = text.partition(f"<!-- {name}:begin")
    first, _, rest = rest.partition("\n")
    _, end, after = rest.partition(f"<!-- {name}:end -->")
    if not begin or not end:
        raise SystemExit(f"readme_tables: a page lacks the marks {name}:begin and {name}:end")
    return f"{before}{begin}{first}\n\n{table}\n\n{end}{after}"


def main(arguments: Sequence[str]) -> int:
    old = {name: (ROOT / name).read_text(encoding="utf-8") for name in TABLES}
    stale = []
    for name, tables in TABLES.items():
        text = old[name]
        for mark, render in tables.items():
            text = replaced(text, mark, render())
        if text != old[name]:
            stale.append(name)
            if "--check" not in arguments:
                (ROOT / name).write_text(text, encoding="utf-8")
    if stale:
        print(f"{'out of date' if '--check' in arguments else 'written'}: {', '.join(stale)}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
