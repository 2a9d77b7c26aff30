"""What schedule constants bring: the same networks with their schedule and without, in the native loop, by turns.

    python benchmarks/schedule_constants.py [--seconds 20] [--batches 1 16]

Untrained networks of usual shapes; one thread, guidance off. Printed is the time with the schedule in the network divided by the
time without, of one run: the median of the rounds and its quartiles. Above 1 the pass is worth it. Times are of the processor, so
that what else runs on the machine takes little part.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import aigc_edge
from aigc_edge.bundle.component import Component as BundleComponent
from aigc_edge.bundle.component import ConstantTable
from aigc_edge.bundle.spec import BATCH, ComponentSpec, TensorSpec
from aigc_edge.bundle.storage import Files
from aigc_edge.bundle.write import write_members
from aigc_edge.diffusion import build
from aigc_edge.engines.constants import Constants
from aigc_edge.export.onnx import export_component
from aigc_edge.export.split import Split, export_split
from aigc_edge.models.base import FAMILIES, ModuleComponent

SCHEDULE = {"prediction": "edm", "sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}


class Transformer(nn.Module):
    """A diffusion transformer (DiT) on patches of 2: each block makes six modulations of the timestep (adaLN-zero)."""

    def __init__(self, channels: int, size: int, width: int, blocks: int, heads: int, classes: int) -> None:
        super().__init__()
        self.size, self.heads, self.channels = size // 2, heads, channels
        self.patch = nn.Conv2d(channels, width, 2, stride=2)
        self.position = nn.Parameter(torch.randn(1, self.size**2, width) * 0.02)
        self.time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = nn.Embedding(classes + 1, width) if classes else None
        self.modulations = nn.ModuleList(nn.Linear(width, 6 * width) for _ in range(blocks))
        self.project = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(blocks))
        self.join = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.mixers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width)) for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.last, self.head = nn.Linear(width, 2 * width), nn.Linear(width, 4 * channels)

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Tensor:
        frequencies = torch.exp(-math.log(1e3) * torch.arange(32) / 32)
        angles = 100 * timestep[:, None] * frequencies
        condition = self.time(torch.cat([angles.cos(), angles.sin()], 1))
        if self.classes is not None:
            condition = condition + self.classes(class_labels)
        condition = nn.functional.silu(condition)
        x = self.patch(sample).flatten(2).transpose(1, 2) + self.position
        for modulate, project, join, mix in zip(self.modulations, self.project, self.join, self.mixers, strict=True):
            scale1, shift1, gate1, scale2, shift2, gate2 = modulate(condition).unsqueeze(1).chunk(6, dim=2)
            q, k, v = project(self.norm(x) * (1 + scale1) + shift1).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            attended = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + gate1 * join(attended)
            x = x + gate2 * mix(self.norm(x) * (1 + scale2) + shift2)
        scale, shift = self.last(condition).unsqueeze(1).chunk(2, dim=2)
        x = self.head(self.norm(x) * (1 + scale) + shift)
        x = x.transpose(1, 2).unflatten(2, (self.size, self.size))
        return nn.functional.pixel_shuffle(x, 2)


def transformer(classes: int) -> ModuleComponent:
    """2.6 M parameters on 3×32×32."""
    shape, module = (3, 32, 32), Transformer(3, 32, 128, 8, 4, classes).eval()
    label = (TensorSpec("class_labels", "class", "int64", (BATCH,)),) if classes else ()
    image = TensorSpec("sample", "sample", "float32", (BATCH, *shape))

    def example(batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        given = (torch.randn((batch, *shape), generator=generator), torch.randn(batch, generator=generator))
        return (*given, torch.randint(classes, (batch,), generator=generator)) if classes else given

    inputs = (image, TensorSpec("timestep", "timestep", "float32", (BATCH,)), *label)
    return ModuleComponent(
        ComponentSpec("denoiser", inputs, (TensorSpec("output", "sample", "float32", image.shape),)), module, example
    )


def unet(classes: int) -> ModuleComponent:
    """The diffusion family's default, 0.7 M parameters on 1×16×16."""
    model = {"size": 16, "channels": 1, "num_classes": classes}
    return next(iter(FAMILIES["diffusion"].from_config(model).components()))


NETWORKS: dict[str, Callable[[], ModuleComponent]] = {
    "UNet 0.7 M": lambda: unet(0),
    "UNet 0.7 M, classes": lambda: unet(10),
    "transformer 2.6 M": lambda: transformer(0),
    "transformer 2.6 M, classes": lambda: transformer(10),
}


def make(part: ModuleComponent, folder: Path) -> tuple[Path, Path, Split]:
    """Bundles of the whole network and of the one without its schedule."""
    with torch.no_grad():
        for value in part.module.parameters():  # what begins with zeros would be simplified away
            value.add_(0.02 * torch.randn_like(value))
    export_component(part, folder / "whole.onnx")
    split = export_split(part, folder / "whole.onnx", folder / "denoiser.onnx", folder / "schedule.onnx")
    if not isinstance(split, Split):
        raise SystemExit(split)
    shape = list(part.spec.outputs[0].shape[1:])
    labelled = any(t.role == "class" for t in part.spec.inputs)
    program = build(SCHEDULE, "dpmpp_2m", 10)
    manifest: dict[str, Any] = {"name": "speed", "family": "diffusion", "sample_shape": shape, "output_shape": shape}
    manifest |= {"output_range": [-1, 1], "schedule": SCHEDULE, "default_format": "fp32", "default_program": program.name}
    manifest |= {"programs": {program.name: program.to_json()}, "classes": {"count": 10, "names": []} if labelled else None}
    whole = BundleComponent(part.spec, {"fp32": {"file": "whole.onnx"}})
    denoiser, schedule = split.components(whole._replace(formats={"fp32": {"file": "denoiser.onnx"}}), "schedule.onnx")
    constants = Constants.load(Files(folder), schedule)
    assert constants is not None
    table, timesteps = constants.table(row.timestep for row in program.rows)
    schedule = schedule._replace(table=ConstantTable("schedule.table", tuple(timesteps)))
    files = {name: folder / name for name in ("denoiser.onnx", "schedule.onnx")}
    write_members(
        folder / "a.aigc", manifest | {"components": {"denoiser": whole.to_json()}}, {"whole.onnx": folder / "whole.onnx"}
    )
    write_members(
        folder / "b.aigc",
        manifest | {"components": {"denoiser": denoiser.to_json(), "schedule": schedule.to_json()}},
        {**files, "schedule.table": table},
    )
    return folder / "a.aigc", folder / "b.aigc", split


def compare(name: str, batches: list[int], seconds: float) -> None:
    with tempfile.TemporaryDirectory() as place:
        first, second, split = make(NETWORKS[name](), Path(place))
        with aigc_edge.open(first, threads=1) as whole, aigc_edge.open(second, threads=1) as without:
            print(f"{name}: {split.report}, {split.report.constants} floats fed a row", flush=True)
            for batch in batches:
                options: dict[str, Any] = {"seed": 1, "output": "float32", "guidance_scale": 1.0}
                off = np.abs(whole.sample(batch, **options) - without.sample(batch, **options)).max()
                ratios, times, end = [], [], time.perf_counter() + seconds
                while time.perf_counter() < end:
                    spent = []
                    for pipeline in (whole, without) if len(ratios) % 2 else (without, whole):
                        start = time.process_time()
                        pipeline.sample(batch, **options)
                        spent.append(time.process_time() - start)
                    ours, theirs = spent if len(ratios) % 2 == 0 else spent[::-1]
                    ratios.append(theirs / ours)
                    times.append((theirs, ours))
                low, middle, high = np.percentile(ratios, [25, 50, 75])
                best = np.min(times, axis=0)
                print(
                    f"  batch {batch:3}: ratio {middle:.3f} ({low:.3f} … {high:.3f}), {best[0] / best[1]:.3f} of the fastest, "
                    f"{len(ratios)} rounds, {1e3 * np.median(times, axis=0)[0]:.2f} ms whole; results differ by {off:.1g}",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each network and batch")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--only", help="the networks whose name contains this")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    for name in NETWORKS:
        if arguments.only is None or arguments.only in name:
            compare(name, arguments.batches, arguments.seconds)


if __name__ == "__main__":
    main()
