"""Figures as a benchmark makes them, from made-up timings: tests of what is shown need no bundle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aigc_edge.bench import suite

KEYS = {
    "native-fp32": ("native", "aigc-edge", "onnxruntime", 0.0400),
    "native-int8": ("native", "aigc-edge", "onnxruntime", 0.0215),
    "network-fp32": ("network", "network alone", "onnxruntime", 0.0396),
    "network-int8": ("network", "network alone", "onnxruntime", 0.0211),
    "numpy-fp32": ("numpy", "NumPy loop", "onnxruntime", 0.0415),
    "numpy-int8": ("numpy", "NumPy loop", "onnxruntime", 0.0231),
    "torch-fp32": ("torch", "torch loop", "torch", 0.0910),
    "diffusers-fp32": ("diffusers", "diffusers", "onnxruntime", 0.0476),
}


def _quality(frechet: float, accuracy: float, **more: Any) -> dict[str, Any]:
    bounds = {"frechet_low": frechet * 0.92, "frechet_high": frechet * 1.09}
    return {"frechet": frechet, **bounds, "n": 1000, "n_real": 1797, "class_accuracy": accuracy, "judge_accuracy": 0.9861} | more


@pytest.fixture
def figures(rng: np.random.Generator) -> dict[str, Any]:
    """A whole result of `suite.bench`."""
    rounds = {"1": 100, "16": 25}
    noise = {batch: 1 + 0.04 * rng.gamma(1.0, 1.0, n) for batch, n in rounds.items()}
    seconds = {
        batch: {
            key: list(base * (1 if batch == "1" else 9) * noise[batch] * (1 + 0.01 * rng.gamma(1, 1, n)))
            for key, (*_, base) in KEYS.items()
        }
        for batch, n in rounds.items()
    }
    rows = []
    for key, (runner, title, engine, _) in KEYS.items():
        format = key.partition("-")[2]
        clock = {batch: [(0.99 * s, 0.985 * s) for s in seconds[batch][key]] if runner == "native" else [] for batch in rounds}
        row: dict[str, Any] = {"key": key, "runner": runner, "title": title, "engine": engine, "format": format}
        row["latency"] = {batch: suite.latency(seconds[batch][key], clock[batch], int(batch)) for batch in rounds}
        row["bytes"] = {"networks": 8_400_000 if format == "fp32" else 2_300_000, "bundle": 12_000_000}
        row["agreement"] = (
            None if key == "native-fp32" else {"psnr": 61.2, "relative_l2": 0.0012, "against": "native-fp32", "n": 16}
        )
        if runner != "network":
            stages = {"interpreter": 0.02, "import": 0.11, "open": 0.06, "first_image": 0.05}
            stages["import"] += {"torch": 1.9, "diffusers": 2.4}.get(runner, 0.0)
            cold = stages | {"total": sum(stages.values())}
            row["cold_start"] = {part: {"median": value, "samples": [value]} for part, value in cold.items()}
            row["peak_bytes"] = {"1": {"torch": 410, "diffusers": 480}.get(runner, 92) * 10**6, "16": 120 * 10**6}
        if runner == "native":
            row["quality"] = (
                _quality(2.31, 0.987, real_split={"frechet": 1.1, "n": 898})
                if format == "fp32"
                else _quality(2.42, 0.985, psnr=31.7, relative_l2=0.03)
            )
        rows.append(row)
    machine = {
        "cpu": "Example CPU",
        "family": "Example 1 2 3",
        "architecture": "x86_64",
        "cores": 2,
        "flags": ["avx2"],
        "memory_gib": 24.0,
    }
    machine |= {
        "system": "Linux Example 12",
        "versions": {"python": "3.11.7"},
        "busy": {"before": {"load": 0.2}, "after": {"load": 1.1}},
    }
    bundle = {
        "name": "digits",
        "family": "diffusion",
        "output_shape": [1, 16, 16],
        "created": "2026-01-01",
        "provenance": {"data": "digits"},
    }
    settings = {"solver": "dpmpp_2m", "steps": 10, "guidance_scale": 2.0, "threads": 1, "batches": [1, 16], "rounds": rounds}
    settings |= {"warmup_rounds": 5, "cold_starts": 3, "quality_images": 1000, "seed": 0}
    return {
        "version": 1,
        "tool": "aigc-edge 0.1.0",
        "created": "2026-01-01T00:00:00+00:00",
        "machine": machine,
        "bundle": bundle,
        "settings": settings,
        "configurations": rows,
        "comparisons": suite.comparisons(seconds),
        "left_out": {"example": "not installed <here>"},
    }
