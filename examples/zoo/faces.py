"""DCGAN faces, 64 × 64: a GAN of transposed convolutions, trained by its publisher on DigiFace-1M.

The package is MIT. DigiFace-1M is for non-commercial research and the package does not say what that means for what its network
generates, so no picture is kept here.
"""

from __future__ import annotations

from pathlib import Path

import torch
from measure import Row, measure
from packages import Package, load_module

from aigc_edge.sources.generator import Generator

PACKAGE = Package(
    name="gan-face-generate",
    version="1.1.1",
    file="gan_face_generate-1.1.1-py3-none-any.whl",
    sha256="24102f4be41d164e44251168ede0458a45e498a888c81493e2aea48529640569",
    licence="MIT",
)


def run(folder: Path, out: Path) -> list[Row]:
    """Compile the generator and compare it with the publisher's torch module on the same latents."""
    package = folder / "gan_face_generate"
    network = load_module(package / "models.py").Generator(ngpu=0, nc=3, nz=100, ngf=64)
    network.load_state_dict(torch.load(package / "weights.tar", map_location="cpu", weights_only=True)["netG_state_dict"])
    network.eval()
    latents = torch.randn(32, 100, 1, 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(latents).numpy()
        return [
            measure(
                Row("DCGAN faces", PACKAGE.licence, [3, 64, 64]),
                out / "faces.aigc",
                lambda: Generator(sample=latents, decoder=network, name="faces", licence=PACKAGE.licence),
                latents.numpy(),
                expected,
                lambda: network(latents[:1]),
            )
        ]
