"""Terrain, 128 × 128 heights: a consistency model as an ONNX file that takes sigma and a difficulty and returns the sample.

Package and weights are MIT.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from measure import Row, measure
from packages import Package

from aigc_edge.sources.base import Source, SourceOptions, open_source

PACKAGE = Package(
    name="adaptive-terrain-diffusion",
    version="0.4.2",
    file="adaptive_terrain_diffusion-0.4.2-py3-none-any.whl",
    sha256="dd803be2c98d764e4e64db18c631eef46c210282b398c4dd080f4cda3fa7c84d",
    licence="MIT",
)
SIGMA = 80.0


def run(folder: Path, out: Path) -> list[Row]:
    """Compile the network with its one-step program and compare it with the publisher's call of onnxruntime."""
    file = folder / "terrain_diffusion" / "weights" / "terrain_consistency_unet_difficulty100.onnx"
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((8, 1, 128, 128), dtype=np.float32)
    difficulty = np.linspace(0, 1, 8, dtype=np.float32)
    np.save(out / "difficulty.npy", rng.uniform(0, 1, 24).astype(np.float32))

    def source() -> Source:
        options = SourceOptions(
            role="denoiser",
            prediction="denoised",
            schedule={"time": "sigma", "sigma_max": SIGMA},
            inputs={"difficulty": str(out / "difficulty.npy")},
        )
        return open_source(str(file), options)

    threads = onnxruntime.SessionOptions()
    threads.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, threads, providers=["CPUExecutionProvider"])

    def published(count: int) -> np.ndarray:
        sigma = np.full(count, SIGMA, np.float32)
        feeds = {"noisy": noise[:count] * np.float32(SIGMA), "sigma": sigma, "difficulty": difficulty[:count]}
        return np.asarray(session.run(["denoised"], feeds)[0])

    return [
        measure(
            Row("Terrain", PACKAGE.licence, [1, 128, 128]),
            out / "terrain.aigc",
            source,
            noise,
            published(len(noise)),
            lambda: published(1),
            conditions={"difficulty": difficulty},
            solver="consistency",
            steps=1,
        )
    ]
