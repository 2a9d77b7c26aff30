"""Pulse2Pulse: ten seconds of an electrocardiogram, 8 leads × 5,000 values, from uniform noise of the same shape.

Package and weights are MIT.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from measure import Row, measure
from packages import Package, load_module

from aigc_edge.sources.generator import Generator

PACKAGE = Package(
    name="deepfake-ecg",
    version="1.1.2",
    file="deepfake_ecg-1.1.2-py3-none-any.whl",
    sha256="dff913de571f9d92d95e25eed4a3fe7df0bfee7c66315ba1fa0687acdd11649c",
    licence="MIT",
)


def run(folder: Path, out: Path) -> list[Row]:
    """Compile the generator and compare it with the publisher's torch module on the same noise."""
    package = folder / "deepfakeecg"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it initialises its weights by a function of an old name
        network = load_module(package / "models" / "pulse2pulse.py").Pulse2pulseGenerator()
    weights = torch.load(package / "checkpoints" / "g_stat.pt", map_location="cpu", weights_only=True)
    network.load_state_dict(weights["stat_dict"])
    network.eval()
    noise = 2 * torch.rand(16, 8, 5000, generator=torch.Generator().manual_seed(0)) - 1
    with torch.no_grad():
        expected = network(noise).numpy()
        return [
            measure(
                Row("Pulse2Pulse ECG", PACKAGE.licence, [8, 5000]),
                out / "ecg.aigc",
                lambda: Generator(sample=noise, decoder=network, inputs="uniform", name="ecg", licence=PACKAGE.licence),
                noise.numpy(),
                expected,
                lambda: network(noise[:1]),
                finish=lambda samples: samples[:, :, 0],
            )
        ]
