"""Super-resolution from a published package, against the pictures that it ships; skipped where it cannot be downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def layers_model(folder: Path, rng: np.random.Generator) -> tuple[Path, dict[str, np.ndarray]]:
    """A small model.json with every kind of layer, and its weights."""
    weights = {"first/kernel": rng.normal(0, 0.3, (3, 3, 2, 4)), "first/bias": rng.normal(0, 1, 4)}
    weights |= {"last/kernel": rng.normal(0, 0.3, (1, 1, 8, 3)), "last/bias": rng.normal(0, 1, 3)}
    weights = {name: value.astype("<f4") for name, value in weights.items()}
    plain = {"strides": [1, 1], "dilation_rate": [1, 1], "activation": "linear", "data_format": "channels_last"}

    def layer(kind: str, name: str, inputs: list[str], **config: Any) -> dict[str, Any]:
        nodes = [[[source, 0, 0, {}] for source in inputs]] if inputs else []
        return {"class_name": kind, "name": name, "config": {"name": name, **config}, "inbound_nodes": nodes}

    layers = [
        layer("InputLayer", "in", []),
        layer("Conv2D", "first", ["in"], padding="same", **plain),
        layer("Activation", "relu", ["first"], activation="relu"),
        layer("Add", "sum", ["relu", "first"]),
        layer("Concatenate", "both", ["sum", "first"], axis=3),
        layer("UpSampling2D", "up", ["both"], size=[2, 2], interpolation="nearest", data_format="channels_last"),
        layer("Conv2D", "last", ["up"], padding="valid", **plain),
    ]
    manifest = [{"name": name, "shape": list(value.shape), "dtype": "float32"} for name, value in weights.items()]
    model = {"modelTopology": {"model_config": {"config": {"layers": layers, "output_layers": [["last", 0, 0]]}}}}
    model["weightsManifest"] = [{"paths": ["a.bin", "b.bin"], "weights": manifest}]  # type: ignore[assignment]
    data = b"".join(value.tobytes() for value in weights.values())
    (folder / "a.bin").write_bytes(data[:70])
    (folder / "b.bin").write_bytes(data[70:])
    (folder / "model.json").write_text(json.dumps(model))
    return folder / "model.json", weights


def test_a_layers_model_is_converted(zoo: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    import torch

    file, weights = layers_model(tmp_path, rng)
    image = rng.normal(0, 1, (2, 5, 7, 2))  # channels last, as TensorFlow has it
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    first = np.einsum("nhwcij,ijco->nhwo", windows, weights["first/kernel"]) + weights["first/bias"]
    both = np.concatenate([np.maximum(first, 0) + first, first], axis=3)
    expected = both.repeat(2, axis=1).repeat(2, axis=2) @ weights["last/kernel"][0, 0] + weights["last/bias"]
    with torch.no_grad():
        found = zoo.tfjs.LayersModel(file)(torch.from_numpy(image.transpose(0, 3, 1, 2)).float()).numpy()
    np.testing.assert_allclose(found.transpose(0, 2, 3, 1), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "changes"),
    [
        (1, {"activation": "relu"}),
        (1, {"strides": [2, 2]}),
        (2, {"activation": "elu"}),
        (4, {"axis": 1}),
        (5, {"interpolation": "b"}),
    ],
)
def test_unknown_layers_are_refused(
    layer: int, changes: dict[str, Any], zoo: Any, tmp_path: Path, rng: np.random.Generator
) -> None:
    file, _ = layers_model(tmp_path, rng)
    model = json.loads(file.read_text())
    model["modelTopology"]["model_config"]["config"]["layers"][layer]["config"] |= changes
    file.write_text(json.dumps(model))
    with pytest.raises(ValueError, match="unknown here"):
        zoo.tfjs.LayersModel(file)


def test_a_published_network_gives_the_shipped_picture(zoo: Any, tmp_path: Path) -> None:
    """To the rounding of single pixels: one level of 255 in one value of a thousand is 78 dB.

    The network is compiled for a part of the photo: away from the edges of the part the result does not depend on the rest.
    """
    import torch

    import aigc_edge
    from aigc_edge.compile import compile_source
    from aigc_edge.sources.generator import Generator

    try:
        package = zoo.esrgan.PACKAGE.fetch(tmp_path) / "package"
    except zoo.packages.Unavailable as error:
        pytest.skip(str(error))
    photo = zoo.esrgan.picture(package / "assets" / "fixture.png")[:, :, 40:80, 36:76]
    network = zoo.tfjs.LayersModel(package / "models" / "x2" / "model.json").eval()
    source = Generator(sample=torch.from_numpy(photo), decoder=network, output_range=(0.0, 255.0))
    compile_source(source, tmp_path / "x2.aigc", formats=["fp32"], samples=2)
    with aigc_edge.open(tmp_path / "x2.aigc", threads=1) as pipe:
        found = zoo.esrgan.to_levels(pipe.sample(1, latents=photo, output="float32"))
    shipped = zoo.esrgan.picture(package / "assets" / "samples" / "2x" / "result.png")[:, :, 80:160, 72:152]
    inside = (..., slice(24, -24), slice(24, -24))  # twelve pixels of the photo: more than the kernels reach
    assert np.abs(found - shipped)[inside].max() <= 1
    assert (found != shipped)[inside].mean() < 5e-3
