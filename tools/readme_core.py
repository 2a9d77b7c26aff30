"""Write the README's tables of the sampling core from the JSON files of its benchmarks.

python tools/readme_core.py benchmarks/results/sampling-x86-v4.json benchmarks/results/tuned-digits.json …
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from aigc_edge.text import digits
from aigc_edge.text import size as size_of

README = Path(__file__).resolve().parent.parent / "README.md"


def ratio(value: Mapping[str, Any], unit: str = "×") -> str:
    """A median with its quartiles."""
    scale = 100 if unit == " %" else 1
    low, high = (digits(scale * quartile) for quartile in value["quartiles"])
    return f"{digits(scale * value['median'])}{unit} ({low} … {high})"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def core(figures: Mapping[str, Any]) -> str:
    """Step, noise, loop and whole sample against their peers."""
    rows = []
    for shape, found in figures["step"].items():
        times = f"{found['ours_us']:.2f} µs against {found['diffusers_us']:.0f} µs"
        rows.append(
            [f"a UniPC step, {shape.replace('x', ' × ')}", "diffusers' scheduler.step", ratio(found["times_as_fast"]), times]
        )
    for size, found in figures["bandwidth"].items():
        rows.append(
            [
                f"a step on a batch of {size}",
                "a copy of as many bytes",
                ratio(found["share_of_copy"]),
                f"copy: {found['copy_gb_per_s']:.0f} GB/s",
            ]
        )
    for shape, found in figures["normals"].items():
        rate = f"{found['million_a_second']:.0f} M a second"
        rows.append([f"normals, {shape.replace('x', ' × ')}", "torch's normal_", ratio(found["times_as_fast"]), rate])
    for entry in figures["loops"].values():
        for peer, found in entry["peers"].items():
            share = 100 * found["outside_network"]["median"]
            name = peer.removesuffix("Scheduler").removesuffix("Discrete").removesuffix("Multistep")
            rows.append([
                f"a sample, UNet of {entry['parameters']:.1f} M, {name}", "diffusers around the same session",
                ratio(found["times_as_fast"]), f"{digits(share, 2)} % of ours is outside the network",
            ])  # fmt: skip
    machine = figures["machine"]
    note = (
        f"Batch 1, 20 steps, 32 × 32 × 3, one thread of {machine['cpu']}; ours and the peer take turns, medians of the rounds' "
        "ratios with quartiles. Pixels are equal."
    )
    return f"{markdown(['', 'against', 'as fast', ''], rows)}\n\n{note}"


def tuned(files: Sequence[Mapping[str, Any]]) -> str:
    """Tuned programs against the best standard solver of as many evaluations."""
    rows = []
    for figures in files:
        for nfe, entry in figures["nfe"].items():
            best = entry["standard"][entry["best"]]
            gain = f"+{entry['gain']:.1f} dB ({entry['gain_low']:.1f} … {entry['gain_high']:.1f})"
            distances = f"{digits(entry['tuned']['frechet'])} against {digits(best['frechet'])}"
            rows.append([
                f"{figures['bundle']}, {nfe} evaluations", f"{entry['tuned']['psnr']:.1f} dB",
                f"{best['psnr']:.1f} dB, {entry['best']}", gain, distances,
            ])  # fmt: skip
    return markdown(["", "tuned", "best standard solver", "gain", "Fréchet distance"], rows)


def int8(figures: Mapping[str, Any]) -> str:
    """int8 against the best float32 engine and against NNCF, network by network, by number of threads."""
    rows = []
    for name, entry in figures["networks"].items():
        for threads, found in entry["threads"].items():
            rows.append([
                f"{name}, {entry['parameters'] / 1e6:.1f} M", threads, found["ours"].partition(" ")[0],
                ratio({"median": found["against_fp32"]["ratio"], "quartiles": found["against_fp32"]["quartiles"]}),
                ratio({"median": found["against_nncf"]["ratio"], "quartiles": found["against_nncf"]["quartiles"]}),
                f"{digits(found['error_of_nncf'])}×", f"{found['psnr']:.1f} dB",
            ])  # fmt: skip
    head = ["", "threads", "engine", "as fast as the best fp32", "as fast as NNCF's int8", "error against NNCF's", "PSNR to fp32"]
    return markdown(head, rows)


def full_size(figures: Mapping[str, Any]) -> str:
    """Stable Diffusion 1.5 at its real size against diffusers' own pipeline, format by format."""
    peer = figures["diffusers"]
    rows = [["diffusers", "–", f"{peer['peak_bytes'] / 1e9:.1f} GB", f"{peer['open_seconds']:.1f} s", "1×", "–"]]
    for name, found in figures["formats"].items():
        ratios = found["times_diffusers"]
        rows.append(
            [
                f"`{name}`",
                size_of(sum(found["bytes"].values())),
                f"{found['peak_bytes'] / 1e9:.1f} GB ({found['first']['peak_bytes'] / 1e9:.1f})",
                f"{found['open_seconds']:.1f} s ({found['first']['open_seconds']:.1f})",
                f"{digits(median(ratios))}× ({digits(ratios[0])} … {digits(ratios[-1])})",
                f"{found['psnr_to_diffusers']:.1f} dB",
            ]
        )
    return markdown(["", "networks", "peak memory (first time)", "opens in (first time)", "as fast", "PSNR to diffusers"], rows)


def put(text: str, name: str, table: str) -> str:
    """`text` with what stands between the marks of `name` replaced."""
    before, begin, rest = text.partition(f"<!-- {name}:begin")
    first, _, rest = rest.partition("\n")
    _, end, after = rest.partition(f"<!-- {name}:end -->")
    if not begin or not end:
        raise SystemExit(f"readme_core: README.md has no marks {name}:begin and {name}:end")
    return f"{before}{begin}{first}\n{table}\n{end}{after}"


def main(arguments: list[str]) -> int:
    if not arguments:
        print("readme_core: give the JSON files of benchmarks/sampling.py, tuned.py, int8.py and full_size.py", file=sys.stderr)
        return 2
    files = [json.loads(Path(name).read_text(encoding="utf-8")) for name in arguments]
    text = README.read_text(encoding="utf-8")
    for figures in files:
        if "step" in figures:
            text = put(text, "core", core(figures))
        if "networks" in figures:
            text = put(text, "int8", int8(figures))
        if "diffusers" in figures:
            text = put(text, "full-size", full_size(figures))
    solved = [figures for figures in files if "nfe" in figures]
    if solved:
        text = put(text, "tuned", tuned(solved))
    README.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
