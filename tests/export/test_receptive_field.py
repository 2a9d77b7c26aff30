"""How far a decoder's pixels depend on its latents, measured with its ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aigc_edge.bundle.spec import ComponentSpec, TensorSpec
from aigc_edge.export.receptive_field import reach, receptive_field

torch = pytest.importorskip("torch")


def measured(folder: Path, decoder: torch.nn.Module, channels: int, side: int) -> int | None:
    sample = torch.randn(1, channels, side, side)
    image = decoder(sample)
    torch.onnx.export(
        decoder, (sample,), str(folder / "decoder.onnx"), input_names=["sample"], output_names=["image"], dynamo=False
    )
    tensors = [
        TensorSpec(name, "sample", "float32", ("N", *value.shape[1:])) for name, value in (("sample", sample), ("image", image))
    ]
    return receptive_field(folder / "decoder.onnx", ComponentSpec("decoder", (tensors[0],), (tensors[1],)), None)


def convolutions(count: int, kernel: int = 3) -> list[torch.nn.Module]:
    layers = [torch.nn.Conv2d(3, 3, kernel, padding=kernel // 2) for _ in range(count)]
    for layer in layers:  # weights of one magnitude: a change at the border of the field is no smaller than 1 % of the largest
        torch.nn.init.uniform_(layer.weight, 0.5, 1.0)
    return list(layers)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_it_is_that_of_the_convolutions(tmp_path, count):
    up = torch.nn.Upsample(scale_factor=2)
    # A convolution after the upsampling reaches one pixel, which is another latent.
    assert measured(tmp_path, torch.nn.Sequential(*convolutions(count, 3), up, *convolutions(1)), 3, 16) == count + 1


def test_normalisation_over_the_image_does_not_count(tmp_path):
    network = torch.nn.Sequential(*convolutions(1), torch.nn.GroupNorm(1, 3), torch.nn.Conv2d(3, 3, 1))
    assert measured(tmp_path, network, 3, 64) == 1


def test_none_where_the_latents_are_too_few(tmp_path):
    assert measured(tmp_path, torch.nn.Sequential(*convolutions(4)), 3, 8) is None


def test_reach_is_the_distance_of_what_changes():
    change = np.zeros((24, 36), np.float32)
    change[12:14, 18:21] = 5.0  # 2 x 3 pixels of the latent in the middle, (6, 6) of 12 x 12
    assert reach(change, (12, 12), (6, 6)) == 0
    change[4, 18] = 0.06  # two pixels of a latent: four rows above
    assert reach(change, (12, 12), (6, 6)) == 4
    change[4, 18] = 0.04  # below 1 % of the largest
    change[12, 30] = -0.0
    assert reach(change, (12, 12), (6, 6)) == 0
    assert reach(np.zeros((24, 36), np.float32), (12, 12), (6, 6)) is None
