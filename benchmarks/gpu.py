"""What the sampling core reaches on a GPU, as ratios to named peers of the same run; prints a table, writes raw samples as JSON.

    python benchmarks/gpu.py --out benchmarks/results/h200.json
    python benchmarks/gpu.py --device cpu --quick              whether it runs: the figures mean nothing

First come the ceilings that were measured (bytes/s of a copy, FLOP/s of a matrix product) and the floors that follow from them.
Peers: diffusers where it is installed, plain torch, torch.compile. Calls take turns; medians with quartiles; each part that fails
is named and the others go on (exit code 1).
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_kernels
import gpu_loop
import torch
from gpu_timing import Bench

from aigc_edge.bench import machine
from aigc_edge.files import write_json

VERSION = 1
PARTS = ("ceilings", "steps", "bandwidth", "normals", "loop", "compiled")


def slug(device: str) -> str:
    """A file's name for a device: "NVIDIA H200" → "h200"."""
    name = torch.cuda.get_device_name(0) if device.startswith("cuda") else "cpu"
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("nvidia", "")).strip("-")


def about(device: str) -> dict[str, Any]:
    """The device and the versions."""
    found: dict[str, Any] = {"machine": machine.fingerprint(), "torch": torch.__version__, "cuda": torch.version.cuda}
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "multiprocessors": properties.multi_processor_count}
        found |= {"capability": f"{properties.major}.{properties.minor}", "memory_gib": round(properties.total_memory / 2**30, 1)}
    return found


def ratio(figures: dict[str, Any]) -> str:
    low, high = figures["quartiles"]
    return f"{figures['ratio']:.3g}× ({low:.3g} … {high:.3g})"


def show(figures: dict[str, Any]) -> None:
    """The table."""
    ceilings = figures.get("ceilings", {})
    for name, value in ceilings.items():
        print(f"ceiling  {name.replace('_', ' ')}: {value:.4g}")
    for entry in figures.get("steps", []):
        shape = "×".join(map(str, entry["shape"]))
        print(
            f"step     {entry['solver']} {shape}, µs a step:", {n: round(v, 2) for n, v in entry["microseconds_a_step"].items()}
        )
        print(f"         launches a step: {entry['launches_a_step']}")
        for kind in ("ratios", "ratios_one_graph"):
            for peer, figure in entry.get(kind, {}).items():
                print(f"         {kind.replace('_', ' ')}: {ratio(figure)} of {peer}")
    for entry in figures.get("bandwidth", []):
        share, megabytes = ratio(entry["share_of_copy"]), entry["bytes"] / 2**20
        print(f"bytes    solver_step, {megabytes:.0f} MB, {entry['network']}: {share} of a copy")
    for entry in figures.get("normals", []):
        print(f"normals  {entry['numbers']}: {ratio(entry['ratios']['torch normal_'])} of torch normal_")
    for entry in figures.get("loop", []) + figures.get("compiled", []):
        floor = entry["floor"]
        print(f"loop     {floor['parameters'] / 1e6:.1f} M parameters, {entry['dtype']}, floor {1e3 * floor['seconds']:.3g} ms")
        for name, value in entry["milliseconds"].items():
            times, launches = entry["times_the_floor"][name], entry["launches"][name]
            error = entry["relative_l2"][name]
            print(f"         {name}: {value:.3f} ms, {times:.2f} × floor, {launches} launches, relative L2 {error:.2g}")
        for peer, figure in entry["ratios"].items():
            print(f"         {ratio(figure)} of {peer}")
        for name, reason in entry["left_out"].items():
            print(f"         {name} left out: {reason}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, three rounds")
    parser.add_argument("--parts", default=",".join(PARTS), help="which, in this order (default: all; compiled takes minutes)")
    parser.add_argument("--out", type=Path, help="the JSON file (default: none)")
    parser.add_argument("--slug", action="store_true", help="print the file's name for this GPU and leave")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("gpu: torch finds no GPU here: give --device cpu --quick to see whether it runs", file=sys.stderr)
        return 2
    if arguments.slug:
        print(slug(arguments.device))
        return 0
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # float32 is the truth here

    def loop(dtypes: tuple[torch.dtype, ...], compiled: bool) -> Any:
        return gpu_loop.loop(bench, figures.get("ceilings") or bench.ceilings(), dtypes, compiled)

    bench = Bench("cuda:0" if arguments.device == "cuda" else "cpu", arguments.quick)
    parts: dict[str, Callable[[], Any]] = {
        "ceilings": bench.ceilings,
        "steps": lambda: gpu_kernels.steps(bench),
        "bandwidth": lambda: gpu_kernels.bandwidth(bench),
        "normals": lambda: gpu_kernels.normals(bench),
        "loop": lambda: loop((torch.float16, torch.bfloat16), False),
        "compiled": lambda: loop((torch.bfloat16,), True),
    }
    chosen = arguments.parts.split(",")
    if unknown := sorted(set(chosen) - set(parts)):
        print(f"gpu: there is no part {unknown[0]!r}: choose of {', '.join(PARTS)}", file=sys.stderr)
        return 2
    figures: dict[str, Any] = {"version": VERSION, "quick": arguments.quick, "device": about(arguments.device), "failed": {}}
    for name in chosen:
        started = time.perf_counter()
        print(f"… {name}", file=sys.stderr, flush=True)
        try:
            figures[name] = parts[name]()
        except Exception as error:  # the other parts are worth having
            figures["failed"][name] = f"{type(error).__name__}: {error}".splitlines()[0]
        print(f"  {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
        if arguments.out:
            write_json(arguments.out, figures)  # after each part: what a time limit cuts off is not all lost
    show(figures)
    for name, reason in figures["failed"].items():
        print(f"failed   {name}: {reason}")
    return 1 if figures["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
