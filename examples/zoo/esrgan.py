"""ESRGAN-slim, super-resolution ×2, ×3 and ×4 of pictures with values 0 … 255; the package ships a photo and its results.

Package, networks and photo are MIT.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from measure import Array, Row, measure
from numpy.typing import NDArray
from packages import Package
from PIL import Image
from tfjs import LayersModel

from aigc_edge.sources.generator import Generator

PACKAGE = Package(
    name="@upscalerjs/esrgan-slim",
    version="1.0.0",
    file="upscalerjs-esrgan-slim-1.0.0.tgz",
    sha256="b53070ff01363e74d33138106dcc72b58d341c9fb7e8fd648554a4e7744142b5",
    licence="MIT",
)
SCALES = (2, 3, 4)


def picture(file: Path) -> Array:
    """A picture file as float32 [1, 3, H, W] with values 0 … 255."""
    with Image.open(file) as opened:
        return np.asarray(opened.convert("RGB"), np.float32).transpose(2, 0, 1)[None].copy()


def to_levels(samples: Array) -> NDArray[np.float32]:
    """Rounded to the levels of a picture file."""
    return np.rint(np.clip(samples, 0, 255))


def run(folder: Path, out: Path) -> list[Row]:
    """Compile each network and compare its picture of the shipped photo with the shipped one."""
    package, rows = folder / "package", []
    photo = picture(package / "assets" / "fixture.png")
    for scale in SCALES:
        network = LayersModel(package / "models" / f"x{scale}" / "model.json").eval()
        expected = picture(package / "assets" / "samples" / f"{scale}x" / "result.png")

        def source(scale: int = scale, network: LayersModel = network) -> Generator:
            return Generator(
                sample=torch.from_numpy(photo),
                decoder=network,
                output_range=(0.0, 255.0),
                inputs={"sample": photo},  # calibrated on what it is for, not on noise
                name=f"esrgan-slim-x{scale}",
                licence=PACKAGE.licence,
            )

        def publisher(network: LayersModel = network) -> object:
            with torch.no_grad():
                return network(torch.from_numpy(photo))

        row = Row(f"ESRGAN-slim ×{scale}", PACKAGE.licence, list(expected.shape[1:]))
        bundle = out / f"esrgan-x{scale}.aigc"
        rows.append(measure(row, bundle, source, photo, expected, publisher, samples=6, finish=to_levels))
    return rows
