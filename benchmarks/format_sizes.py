"""What every format makes of a UNet of 36 M parameters and of a DiT-S/2: size of the file, seconds and peak memory of making it.

    python benchmarks/format_sizes.py [--threads 2] [--formats int8w int4] [--output benchmarks/results/format-sizes.json]

The networks are those of diffusers (UNet2DModel as in ddpm-cifar10-32, DiTTransformer2DModel), untrained: their size and the work
of converting them do not depend on the weights, their quality does, so none is reported. Each conversion (calibration and proof
along ten steps of 16 samples included) runs in a process of its own; its peak memory is the process's. Seconds are wall time,
which other work on the machine lengthens, and processor time of all threads; `share` is of the float32 file's size.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from diffusers_networks import CLASSES, SHAPES, network

from aigc_edge.bench.machine import fingerprint
from aigc_edge.bundle.spec import BATCH, ComponentSpec, TensorSpec
from aigc_edge.compress.calibration.trajectory import Calibration
from aigc_edge.compress.format import FORMATS, parse
from aigc_edge.config import names
from aigc_edge.diffusion import build
from aigc_edge.files import write_json

SCHEDULE = {"prediction": "edm", "sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}
SAMPLES = 16  # what `aigc-edge compile` calibrates with


def spec_of(name: str) -> ComponentSpec:
    image = TensorSpec("sample", "sample", "float32", (BATCH, *SHAPES[name]))
    inputs = [image, TensorSpec("timestep", "timestep", "float32", (BATCH,))]
    if CLASSES[name]:
        inputs.append(TensorSpec("class_labels", "class", "int64", (BATCH,)))
    return ComponentSpec("denoiser", tuple(inputs), (TensorSpec("output", "sample", "float32", image.shape),))


def export(name: str, path: Path) -> dict[str, Any]:
    """Write the network `name` to `path`; returns its parameters and the seconds that took."""
    import torch
    from torch import Tensor

    from aigc_edge.export.onnx import export_component
    from aigc_edge.models.base import ModuleComponent

    module = network(name).eval()

    def example(batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        given = (torch.randn((batch, *SHAPES[name]), generator=generator), torch.rand(batch, generator=generator))
        return (*given, torch.randint(CLASSES[name], (batch,), generator=generator)) if CLASSES[name] else given

    started = time.perf_counter()
    export_component(ModuleComponent(spec_of(name), module, example), path)
    return {"parameters": sum(p.numel() for p in module.parameters()), "export_seconds": time.perf_counter() - started}


def convert_one(name: str, text: str, source: Path, out: Path, threads: int) -> dict[str, Any]:
    """Convert in this process, which does nothing else."""
    calibration = Calibration.draw(spec_of(name), build(SCHEDULE, "dpmpp_2m", 10), SAMPLES, num_classes=CLASSES[name])
    free = [f"{key}={value}" for key, value in (("psnr", 0), ("aim", 0), ("rank", "false")) if key in names(FORMATS[text])]
    started, worked = time.perf_counter(), time.process_time()
    report = parse(f"{text}:{','.join(free)}").convert(source, out, calibration, threads=threads).to_json()
    seconds, worked = time.perf_counter() - started, time.process_time() - worked
    status = Path("/proc/self/status").read_text()  # getrusage would count what the parent had when it started this process
    peak = 1024 * int(status.split("VmHWM:")[1].split()[0])
    share = report["bytes"] / report["source_bytes"]
    figures = {"bytes": report["bytes"], "share": round(share, 4), "seconds": round(seconds, 1), "cpu_seconds": round(worked, 1)}
    return figures | {"peak_bytes": peak, "n": report.get("n")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--formats", nargs="+", help="default: all")
    parser.add_argument("--networks", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--output", type=Path, help="write the figures to this file, beside those that it has")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, text, source, out = arguments.child
        print(json.dumps(convert_one(name, text, Path(source), Path(out), arguments.threads)))
        return
    path = arguments.output
    known: dict[str, Any] = json.loads(path.read_text()) if path is not None and path.exists() else {}
    known |= {"machine": fingerprint(), "threads": arguments.threads, "samples": SAMPLES}
    with tempfile.TemporaryDirectory() as place:
        for name in arguments.networks:
            source = Path(place) / f"{name}.onnx"
            found = known.setdefault(name, {"formats": {}})
            found |= export(name, source)
            weights = source.stat().st_size
            print(
                f"{name}: {found['parameters'] / 1e6:.1f} M parameters, exported in {found['export_seconds']:.0f} s", flush=True
            )
            for text in arguments.formats or list(FORMATS):
                child = [sys.executable, __file__, "--threads", str(arguments.threads)]
                child += ["--child", name, text, str(source), str(Path(place) / "out.onnx")]
                done = subprocess.run(child, check=True, capture_output=True, text=True, env=os.environ)
                figures = found["formats"][text] = json.loads(done.stdout.splitlines()[-1])
                allowed = 3 * weights + 2 * 2**30
                times = f"{figures['seconds']:.0f} s ({figures['cpu_seconds']:.0f} of the processor)"
                memory = (
                    f"{figures['peak_bytes'] / 2**30:.2f} GB at most, {figures['peak_bytes'] / allowed:.2f} of what is allowed"
                )
                print(f"  {text:9} {figures['share']:.3f} of the file, {times}, {memory}, {figures['n']} samples", flush=True)
                if path is not None:
                    write_json(path, known)


if __name__ == "__main__":
    main()
