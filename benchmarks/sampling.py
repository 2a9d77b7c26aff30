"""Speed of the sampling core against named peers: the step, the noise, the loop, the whole sample.

    python benchmarks/sampling.py                    about ten minutes; writes benchmarks/results/sampling-<machine>.json
    python benchmarks/sampling.py --quick -o x.json  a few seconds, to see that it runs

Everything is one thread. Ours and the peers take turns within one run, so that what else the machine does hits all alike; each
figure is the median of the rounds' ratios with its quartiles. Absolute times are notes. The networks are untrained: their weights
are random, which changes no time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: its spinning threads would slow everything on shared cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

import aigc_edge
from aigc_edge import _core as core
from aigc_edge import ops
from aigc_edge.bench.machine import fingerprint
from aigc_edge.bundle.write import write_members
from aigc_edge.diffusion import Program, build, from_diffusers
from aigc_edge.engines.base import ENGINES, Engine
from aigc_edge.export.onnx import export_component
from aigc_edge.files import write_json
from aigc_edge.models.diffusion import Diffusion, DiffusionModel

RESULTS = Path(__file__).resolve().parent / "results"
Turn = Callable[[], object]
SCHEDULE = {"prediction": "epsilon", "betas": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
UNETS = {  # parameters in millions → settings; 32×32 RGB
    "0.2 M": {"widths": (24, 48), "blocks": (1, 1), "embedding": 64, "patch": 2},
    "0.7 M": {"widths": (48, 96), "blocks": (2, 2), "embedding": 96, "patch": 2},
    "2 M": {"widths": (64, 128), "blocks": (3, 3), "embedding": 128, "patch": 2},
    "7 M": {"widths": (96, 192, 256), "blocks": (2, 2, 2), "embedding": 256, "patch": 2},
}


REPEATS = 5  # of a loop in its turn: both find their caches as a loop leaves them


class NoNetwork(Engine):
    """Leaves its output as it is: what remains of a loop's time is the loop."""

    name = "none"

    def __init__(self, spec: Any) -> None:
        self.spec = spec

    @classmethod
    def unavailable(cls) -> str | None:
        return None

    @classmethod
    def load(cls, source: Any, *, threads: int) -> Engine:
        return cls(source.spec)

    def bind(self, inputs: Any, outputs: Any) -> Callable[[], None]:
        for output in outputs.values():
            output[...] = 0.1
        return lambda: None


def rounds(turns: dict[str, Turn], seconds: float) -> dict[str, np.ndarray]:
    """Seconds a call, in turns; a quick function is called more often in its turn."""
    repeats = {}
    for name, turn in turns.items():
        turn()
        start = time.perf_counter()
        turn()
        repeats[name] = max(1, int(2e-3 / (time.perf_counter() - start + 1e-9)))
    found: dict[str, list[float]] = {name: [] for name in turns}
    end = time.perf_counter() + seconds
    while len(found[next(iter(turns))]) < 5 or time.perf_counter() < end:
        for name, turn in turns.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                turn()
            found[name].append((time.perf_counter() - start) / repeats[name])
    return {name: np.array(values) for name, values in found.items()}


def ratio(values: np.ndarray) -> dict[str, Any]:
    """Median and quartiles of a ratio over the rounds."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": round(float(middle), 4), "quartiles": [round(float(low), 4), round(float(high), 4)], "rounds": len(values)}


def tensor(name: str, role: str, dtype: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "role": role, "dtype": dtype, "shape": ["N", *shape]}


def bundle(folder: Path, shape: tuple[int, ...], program: Program, network: Path | bytes) -> Path:
    """A bundle of one unconditional denoiser and one program."""
    spec = {
        "inputs": [tensor("sample", "sample", "float32", *shape), tensor("timestep", "timestep", "float32")],
        "outputs": [tensor("output", "sample", "float32", *shape)],
        "formats": {"fp32": {"file": "denoiser.onnx"}},
    }
    manifest = {
        "name": "measured", "family": "diffusion", "sample_shape": list(shape), "output_shape": list(shape),
        "output_range": [-1, 1], "classes": None, "schedule": SCHEDULE, "components": {"denoiser": spec},
        "default_format": "fp32", "default_program": program.name, "programs": {program.name: program.to_json()},
    }  # fmt: skip
    write_members(folder, manifest, {"denoiser.onnx": network})
    return folder


def unipc(steps: int) -> Any:
    from diffusers import UniPCMultistepScheduler

    scheduler = UniPCMultistepScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    scheduler.set_timesteps(steps)
    return scheduler


def step(folder: Path, seconds: float) -> dict[str, Any]:
    """One UniPC step: ours within the native loop (all but the network), diffusers' scheduler.step on one thread."""
    found = {}
    for shape in ((3, 32, 32), (3, 256, 256)):
        steps = 200
        program = from_diffusers(unipc(steps), steps)
        place = bundle(folder / f"step-{shape[1]}.aigc", shape, program, b"no network")
        own = aigc_edge.open(place, engine="none", threads=1)
        rng = np.random.default_rng(0)
        x, output = (torch.from_numpy(rng.normal(size=(1, *shape)).astype(np.float32)) for _ in range(2))
        scheduler = unipc(20)

        def theirs(scheduler: Any = scheduler, x: Any = x, output: Any = output) -> float:
            seconds = 0.0
            for _ in range(REPEATS):
                scheduler.set_timesteps(20)  # or it would run out of steps; not timed
                sample, times = x, scheduler.timesteps
                start = time.perf_counter()
                for t in times:
                    sample = scheduler.step(output, t, sample).prev_sample
                seconds += time.perf_counter() - start
            return seconds / REPEATS / 20

        def ours(own: Any = own, steps: int = steps) -> float:
            seconds = 0.0
            for _ in range(REPEATS):
                own.sample(1, output="float32")
                stats = own.stats
                seconds += stats["total_seconds"] - stats["network_seconds"]
            return seconds / REPEATS / steps

        times: list[tuple[float, float]] = []
        end = time.perf_counter() + seconds
        with torch.inference_mode():
            while len(times) < 5 or time.perf_counter() < end:
                times.append((ours(), theirs()))
        mine, other = np.array(times).T
        found["x".join(map(str, shape))] = {
            "slots": program.slots,
            "ours_us": round(float(np.median(mine)) * 1e6, 3),
            "diffusers_us": round(float(np.median(other)) * 1e6, 1),
            "times_as_fast": ratio(other / mine),
        }
    return found


def bandwidth(seconds: float) -> dict[str, Any]:
    """solver_step (two slots) on batches that no cache holds, as a share of what a copy of as many bytes reaches."""
    from aigc_edge.ops.solver_step import _arguments

    found = {}
    for megabytes in (64, 256):
        elements = megabytes * 1024 * 256
        arguments = _arguments(np.random.default_rng(0), 2, 1, elements, 1, 1, 0, False, False)
        native = core.op("solver_step")
        moved = 6 * 4 * elements  # two slots in and out, the network's output and input
        source, target = (np.ones(moved // 2, np.uint8) for _ in range(2))  # zeros would be one page of memory, read from a cache
        times = rounds(
            {"ours": lambda n=native, a=arguments: n(**a), "copy": lambda s=source, t=target: np.copyto(t, s)}, seconds
        )
        found[f"{megabytes} MB"] = {
            "copy_gb_per_s": round(moved / float(np.median(times["copy"])) / 1e9, 2),
            "share_of_copy": ratio(times["copy"] / times["ours"]),
        }
    return found


def normals(seconds: float) -> dict[str, Any]:
    """Our Philox normals against torch's normal_."""
    found = {}
    for shape in ((1, 3072), (1, 196_608), (16, 196_608)):
        out, seeds = np.empty(shape, np.float32), np.arange(shape[0], dtype=np.uint64)
        theirs = torch.empty(shape)
        times = rounds({"ours": lambda s=seeds, o=out: ops.randn(s, 0, o), "torch": theirs.normal_}, seconds)
        found["x".join(map(str, shape))] = {
            "million_a_second": round(out.size / float(np.median(times["ours"])) / 1e6, 1),
            "times_as_fast": ratio(times["torch"] / times["ours"]),
        }
    return found


def network(folder: Path, settings: dict[str, Any]) -> tuple[Path, float]:
    """An exported UNet with random weights, and its parameters in millions."""
    torch.manual_seed(0)
    family = Diffusion(DiffusionModel(size=32, channels=3, num_classes=0, **settings)).eval()
    with torch.no_grad():
        for parameter in family.parameters():
            if not parameter.any():  # what begins as zero would make the rest idle
                parameter.normal_(0, 0.02)
    (component,) = family.components()
    path = folder / f"{settings['widths'][0]}.onnx"
    export_component(component, path)
    return path, sum(p.numel() for p in family.parameters()) / 1e6


def diffusers_loop(place: Path, scheduler: Any, steps: int, latents: np.ndarray) -> Turn:
    """A diffusers pipeline's loop around the same onnxruntime session, with its buffers bound as well as that can be."""
    from aigc_edge.bundle.bundle import Bundle
    from aigc_edge.engines.base import EngineSource

    engine = ENGINES["onnxruntime"].load(EngineSource.of(Bundle.open(place), "denoiser", "fp32"), threads=1)
    sample, timestep = np.empty_like(latents), np.empty(len(latents), np.float32)
    output = np.empty_like(latents)
    call = engine.bind({"sample": sample, "timestep": timestep}, {"output": output})
    given = torch.from_numpy(sample)

    def run() -> np.ndarray:
        with torch.inference_mode():
            scheduler.set_timesteps(steps)
            x = torch.from_numpy(latents) * float(scheduler.init_noise_sigma)
            for t in scheduler.timesteps:
                given.copy_(scheduler.scale_model_input(x, t))
                timestep[...] = float(t)
                call()
                x = scheduler.step(torch.from_numpy(output), t, x).prev_sample
            pixels = (x / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return np.asarray(pixels.contiguous().numpy())

    return run


def loops(folder: Path, seconds: float) -> dict[str, Any]:
    """Whole samples, batch 1, 20 steps: the share of the time outside the network, and diffusers around the same session."""
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler

    kinds = (UniPCMultistepScheduler, DPMSolverMultistepScheduler, DDIMScheduler, EulerDiscreteScheduler)
    found: dict[str, Any] = {}
    for name, settings in UNETS.items():
        path, millions = network(folder, settings)
        latents = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
        entry: dict[str, Any] = {"parameters": round(millions, 2), "peers": {}}
        for kind in kinds:
            given = {"clip_sample": False} if kind is DDIMScheduler else {}
            scheduler = kind(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, **given)
            program = from_diffusers(scheduler, 20)
            place = bundle(folder / f"{settings['widths'][0]}-{kind.__name__}.aigc", (3, 32, 32), program, path)
            own = aigc_edge.open(place, threads=1)
            theirs = diffusers_loop(place, scheduler, 20, latents)
            outside: list[float] = []

            def ours(own: Any = own, latents: np.ndarray = latents, outside: list[float] = outside) -> np.ndarray:
                images = own.sample(1, latents=latents)
                stats = own.stats
                outside.append(1 - stats["network_seconds"] / stats["total_seconds"])
                return np.asarray(images)

            same = np.abs(ours().astype(int) - theirs().astype(int))
            times = rounds({"ours": ours, "diffusers": theirs}, seconds)
            entry["peers"][kind.__name__] = {
                "ours_ms": round(float(np.median(times["ours"])) * 1e3, 3),
                "diffusers_ms": round(float(np.median(times["diffusers"])) * 1e3, 3),
                "times_as_fast": ratio(times["diffusers"] / times["ours"]),
                "outside_network": ratio(np.array(outside)),
                "largest_pixel_difference": int(same.max()),
            }
        found[name] = entry
    return found


def build_times(seconds: float) -> dict[str, Any]:
    """How long building a program takes, since an app may do so when its user changes the number of steps."""
    times = rounds({name: lambda n=name: build(SCHEDULE, n, 20) for name in ("dpmpp_2m", "unipc", "heun")}, seconds)
    return {name: {"ms": round(float(np.median(values)) * 1e3, 3)} for name, values in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds: figures that mean little")
    parser.add_argument("-o", "--output", help="the JSON file (default: benchmarks/results/sampling-<machine>.json)")
    parser.add_argument("--only", action="append", metavar="PART", help="measure this part anew and keep the others of the file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ENGINES.register("none")(NoNetwork)
    seconds = 0.1 if arguments.quick else 20.0
    if arguments.quick:
        for name in list(UNETS)[1:]:
            del UNETS[name]
    isa = "x86" if os.uname().machine == "x86_64" else os.uname().machine
    output = Path(arguments.output or RESULTS / f"sampling-{isa}-{core.isa()}.json")
    results: dict[str, Any] = json.loads(output.read_text(encoding="utf-8")) if arguments.only else {}
    results |= {"machine": fingerprint(), "isa": core.isa(), "threads": 1}
    with tempfile.TemporaryDirectory() as folder:
        parts: dict[str, Callable[[], Any]] = {
            "step": lambda: step(Path(folder), seconds),
            "bandwidth": lambda: bandwidth(seconds / 2),
            "normals": lambda: normals(seconds / 2),
            "loops": lambda: loops(Path(folder), seconds),
            "build": lambda: build_times(seconds / 10),
        }
        for name in arguments.only or parts:
            results[name] = parts[name]()
            print(f"{name}: {json.dumps(results[name], indent=1)}", flush=True)
    write_json(output, results)
    print(f"written: {output}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
