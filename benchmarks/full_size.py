"""Stable Diffusion 1.5 at its real size, with random weights: compiled, drawn, and compared with diffusers from the same noise.

    python benchmarks/full_size.py [--formats fp32 int8w int4] [--rounds 3] [--output benchmarks/results/full-size.json]

One gigaparameter: a UNet of 860 M whose file is beyond what a protobuf message holds, a text encoder of 123 M, a decoder of 49 M;
images of 256 × 256 (for the time of two cores), four steps, guidance 7.5. Each of compiling, sampling in a format and diffusers'
own pipeline is a process of its own; rounds are interleaved, and a first image is drawn before one is timed. Weights are
random, so PSNR says how exact the path is, and nothing of quality. Takes 12 GB of memory, 15 GB of disk and half an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from processes import child, peak

from aigc_edge.bench.machine import fingerprint
from aigc_edge.files import write_json

SIZE, STEPS, PROMPT = (256, 256), 4, "a red cat"
PROMPTS = (PROMPT, "a dog on the moon")


def _latents() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal((1, 4, SIZE[0] // 8, SIZE[1] // 8), np.float32)


def compile_one(folder: str, bundle: str, threads: int, formats: list[str]) -> dict[str, Any]:
    """Compile in this process, which does nothing else."""
    from aigc_edge.compile import compile_source
    from aigc_edge.sources.base import SourceOptions

    options = SourceOptions(size=SIZE, prompts=PROMPTS)
    started = time.perf_counter()
    compile_source(folder, bundle, formats=formats, steps=STEPS, samples=2, threads=threads, options=options)
    return {"seconds": round(time.perf_counter() - started, 1), "peak_bytes": peak()}


def sample_one(bundle: str, image: str, threads: int, format: str) -> dict[str, Any]:
    """Draw an image twice in this process: the seconds of the second."""
    import aigc_edge

    started = time.perf_counter()
    with aigc_edge.open(bundle, format=format, threads=threads) as pipeline:
        opened = time.perf_counter() - started
        for _ in range(2):
            started = time.perf_counter()
            made = pipeline.sample(1, prompt=PROMPT, latents=_latents(), output="float32")
            seconds = time.perf_counter() - started
    np.save(image, np.clip(np.asarray(made, np.float64) / 2 + 0.5, 0, 1))
    return {"open_seconds": opened, "seconds": seconds, "peak_bytes": peak()}


def peer_one(folder: str, image: str, threads: int) -> dict[str, Any]:
    """The same image by diffusers."""
    import diffusers
    import torch

    torch.set_num_threads(threads)
    started = time.perf_counter()
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    opened = time.perf_counter() - started
    pipe.set_progress_bar_config(disable=True)
    for _ in range(2):
        started = time.perf_counter()
        options = {"num_inference_steps": STEPS, "height": SIZE[0], "width": SIZE[1], "output_type": "np"}
        made = pipe(PROMPT, latents=torch.from_numpy(_latents()), guidance_scale=7.5, **options).images
        seconds = time.perf_counter() - started
    np.save(image, made.transpose(0, 3, 1, 2))
    return {"open_seconds": opened, "seconds": seconds, "peak_bytes": peak()}


def psnr(a: Path, b: Path) -> float:
    """Between two images in 0 … 1, in dB."""
    return round(float(10 * np.log10(1 / np.mean(np.square(np.load(a) - np.load(b).astype(np.float64))))), 1)


def predict(folder: Path, formats: list[str]) -> dict[str, Any]:
    """What `aigc-edge plan` says before."""
    from aigc_edge.preflight.plan import plan
    from aigc_edge.sources.base import SourceOptions, open_source

    return plan(open_source(str(folder), SourceOptions(size=SIZE, prompts=PROMPTS)), formats, ["x86-cpu"], steps=STEPS)


def compiled(folder: Path, bundle: Path, formats: list[str], threads: int, predicted: dict[str, Any]) -> dict[str, Any]:
    """Time and memory of compiling."""
    parameters = sum(part["parameters"] for part in predicted["networks"].values())
    found = child(__file__, "compile", str(folder), str(bundle), str(threads), *formats)
    found |= {"peak_ratio": round(found["peak_bytes"] / predicted["compile"]["memory"], 3)}
    return found | {"peak_allowed": 3 * 4 * parameters + 2 * 10**9}


def drawn(folder: Path, bundle: Path, formats: list[str], threads: int, rounds: int, predicted: dict[str, Any]) -> dict[str, Any]:
    """Sizes, memory, time and exactness of every format beside diffusers."""
    from aigc_edge.bundle.bundle import Bundle

    manifest, place = Bundle.open(bundle).manifest, bundle.parent
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ("diffusers", *formats)}
    # The first opening lays networks out for this processor, the later ones find them so.
    first = {name: child(__file__, "sample", str(bundle), str(place / f"{name}.npy"), str(threads), name) for name in formats}
    for _ in range(rounds):
        runs["diffusers"].append(child(__file__, "peer", str(folder), str(place / "diffusers.npy"), str(threads)))
        for name in formats:
            runs[name].append(child(__file__, "sample", str(bundle), str(place / f"{name}.npy"), str(threads), name))
    medians = {name: {key: median(run[key] for run in each) for key in each[0]} for name, each in runs.items()}
    parts = manifest.components
    whole = manifest.bytes_of(parts["denoiser"].file("fp32"))
    found: dict[str, Any] = {}
    for name in formats:
        files = {part: entry.file(name) for part, entry in parts.items() if name in entry.formats}
        sizes, told, figures = (
            {part: manifest.bytes_of(file) for part, file in files.items()},
            predicted["formats"][name],
            medians[name],
        )
        ratios = sorted(peer["seconds"] / run["seconds"] for peer, run in zip(runs["diffusers"], runs[name], strict=True))
        found[name] = figures | {
            "bytes": sizes,
            "share_of_fp32": round(sizes["denoiser"] / whole, 4),
            "size_ratio": round(sizes["denoiser"] / told["bytes"]["denoiser"], 4),
            "first": first[name],
            "memory_ratio": round(first[name]["peak_bytes"] / told["memory"], 3),
            "times_diffusers": [round(ratio, 2) for ratio in ratios],
            "psnr_to_diffusers": psnr(place / f"{name}.npy", place / "diffusers.npy"),
        }
    return {"diffusers": medians["diffusers"], "formats": found}


def measure(place: Path, formats: list[str], threads: int, rounds: int, known: dict[str, Any]) -> dict[str, Any]:
    from diffusers_networks import stable_diffusion

    folder, bundle, asked = place / "pipeline", place / "made.aigc", [f if f == "fp32" else f"{f}:psnr=0" for f in formats]
    if not folder.exists():
        stable_diffusion(place)
    os.environ["XDG_CACHE_HOME"] = str(place / "cache")
    predicted = predict(folder, asked)
    found = {"parameters": {name: part["parameters"] for name, part in predicted["networks"].items()}}
    there = bundle.exists() and "compile" in known
    found |= {"compile": known["compile"] if there else compiled(folder, bundle, asked, threads, predicted)}
    made = drawn(folder, bundle, formats, threads, rounds, predicted)
    return found | made | {"formats": {**(known["formats"] if there else {}), **made["formats"]}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="+", default=["fp32", "int8w", "int4"], help="fp32 among them")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--folder",
        type=Path,
        help="where to work, kept afterwards; a bundle there is drawn from, not made, and what the output has "
        "of other formats is kept (default: a temporary one)",
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/full-size.json"))
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        what, first, second, threads, *rest = arguments.child
        if what == "compile":
            found = compile_one(first, second, int(threads), rest)
        else:
            found = sample_one(first, second, int(threads), *rest) if what == "sample" else peer_one(first, second, int(threads))
        print(json.dumps(found))
        return
    known = json.loads(arguments.output.read_text(encoding="utf-8")) if arguments.output.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        results = {"machine": fingerprint(), "threads": arguments.threads, "size": SIZE, "steps": STEPS}
        results |= measure(arguments.folder or Path(folder), arguments.formats, arguments.threads, arguments.rounds, known)
    write_json(arguments.output, results)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
