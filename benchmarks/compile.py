"""Time and memory of compiling, and how near the preflight came: a UNet, a DiT-S/2, and a UNet of latents with its decoder.

    python benchmarks/compile.py [--threads 2] [--networks latent] [--output benchmarks/results/compile.json]

Each network (diffusers' classes, random weights: neither time, nor memory, nor size depends on them) is compiled by a process of
its own: export, check, calibration along ten steps, quantisation, proof and bundle. Its peak memory and the seconds of each stage
are recorded, then the peak memory of a process that draws one sample in each format, the median seconds of a few more, and the
peak and seconds of opening in a second process, which finds networks whose weights are apart laid out.
`aigc-edge plan` is asked before; ratios are what happened to what was predicted; the constants of its figures of memory were
fitted to these networks. Its time is the least that this processor could take, at the rate of large matrix products: `time_ratio`
is how far from it a sample is.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from processes import child, peak

from aigc_edge.bench.machine import fingerprint
from aigc_edge.files import write_json

FORMATS = {"unet": ("fp32", "int8:psnr=0,aim=0"), "dit": ("fp32", "int8:psnr=0,aim=0", "int4:psnr=0")}
FORMATS |= {"latent": ("fp32", "int8:psnr=0,aim=0", "int4:psnr=0")}
NETWORK = (".onnx", ".onnx.data")
TIMED = 5  # samples
SAMPLES = 4  # images a format that are measured: untrained networks have no quality to speak of


def generator(name: str) -> Any:
    """The network as a source."""
    import torch
    from diffusers_networks import CLASSES, SHAPES, decoder, network

    from aigc_edge.sources.generator import Generator

    schedule = {"prediction": "epsilon", "betas": "linear"}
    networks = {"denoiser": network(name), "decoder": decoder(name)}
    sample = torch.zeros(1, *SHAPES[name])
    return Generator(sample=sample, **networks, schedule=schedule, num_classes=CLASSES[name], name=name)


def compile_one(name: str, out: str, threads: int) -> dict[str, Any]:
    """Compile in this process, which does nothing else."""
    from aigc_edge.compile import compile_source

    source, stages, last = generator(name), dict[str, float](), ["", time.perf_counter()]

    def progress(what: str, done: float, left: float) -> None:
        now = time.perf_counter()
        stages[str(last[0])] = stages.get(str(last[0]), 0.0) + now - float(last[1])
        last[:] = [what, now]

    started, worked = time.perf_counter(), time.process_time()
    compile_source(source, out, formats=FORMATS[name], steps=10, samples=SAMPLES, threads=threads, progress=progress)
    seconds, worked = time.perf_counter() - started, time.process_time() - worked
    stages.pop("", None)
    rounded = {stage: round(spent, 1) for stage, spent in stages.items()}
    return {"seconds": round(seconds, 1), "cpu_seconds": round(worked, 1), "stages": rounded, "peak_bytes": peak()}


def sample_one(bundle: str, format: str, threads: int) -> dict[str, Any]:
    """Draw one sample in this process, then a few to be timed."""
    import aigc_edge

    started = time.perf_counter()
    with aigc_edge.open(bundle, format=format, threads=threads) as pipeline:
        opening = time.perf_counter() - started
        pipeline.sample(1)
        memory, times = peak(), []
        for _ in range(TIMED):
            started = time.perf_counter()
            pipeline.sample(1)
            times.append(time.perf_counter() - started)
    return {"peak_bytes": memory, "seconds": statistics.median(times), "opening": opening}


def measure(name: str, threads: int) -> dict[str, Any]:
    from aigc_edge.bundle.bundle import Bundle
    from aigc_edge.preflight.plan import plan

    predicted = plan(generator(name), FORMATS[name], ["x86-cpu"], steps=10, threads=threads)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        bundle = f"{folder}/{name}.aigc"
        found = child(__file__, "compile", name, bundle, str(threads))
        manifest = Bundle.open(bundle).manifest
        files = {file: entry.bytes for file, entry in manifest.files.items()}
        schedule = sum(size for file, size in files.items() if file.startswith("schedule.") and file.endswith(NETWORK))
        formats: dict[str, Any] = {}
        for format, entry in manifest.components["denoiser"].formats.items():
            size, told = manifest.bytes_of(entry["file"]), predicted["formats"][format]
            drawn = child(__file__, "sample", bundle, format, str(threads))
            again = child(__file__, "sample", bundle, format, str(threads))
            least = predicted["targets"]["x86-cpu"][format]["seconds"]
            formats[format] = {
                "bytes": size,
                "share_of_fp32": round(size / manifest.bytes_of("denoiser.fp32.onnx"), 4),
                "size_ratio": round(size / told["bytes"]["denoiser"], 4),
                "sampling_bytes": drawn["peak_bytes"],
                "memory_ratio": round(drawn["peak_bytes"] / told["memory"], 3),
                "sampling_bytes_again": again["peak_bytes"],
                "opening_seconds": [round(one["opening"], 3) for one in (drawn, again)],
                "seconds": round(drawn["seconds"], 4),
                "time_ratio": round(drawn["seconds"] / least, 2),
                "psnr": manifest.quality[format].get("psnr"),
            }
    parameters = sum(part["parameters"] for part in predicted["networks"].values())
    found |= {"rates": predicted["figures"]["x86-cpu"]}
    found |= {"peak_ratio": round(found["peak_bytes"] / predicted["compile"]["memory"], 3)}
    found |= {"peak_allowed": 3 * 4 * parameters + 2 * 10**9, "parameters": parameters}
    networks = sum(size for file, size in files.items() if file.endswith(NETWORK))
    found |= {"network_bytes": networks, "bundle_ratio": round(networks / predicted["bundle"], 4)}
    return found | {"schedule_bytes": schedule, "formats": formats}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--networks", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/compile.json"), help="what it has of other networks is kept"
    )
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        what, *words = arguments.child
        found = (compile_one if what == "compile" else sample_one)(words[0], words[1], int(words[2]))
        print(json.dumps(found))
        return
    path: Path = arguments.output
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    results |= {"machine": fingerprint(), "threads": arguments.threads}
    for name in arguments.networks:
        results[name] = measure(name, arguments.threads)
        write_json(path, results)
        print(json.dumps(results[name], indent=1))


if __name__ == "__main__":
    main()
