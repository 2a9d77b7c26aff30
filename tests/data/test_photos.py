"""Crops of the two photographs: real pixels, and a split that shares none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from aigc_edge.data import ImageSet, load
from aigc_edge.errors import DataError


@pytest.fixture(scope="module")
def crops() -> ImageSet:
    return load("photos")


def test_they_are_the_photographs(crops: ImageSet) -> None:
    from sklearn.datasets import load_sample_images

    assert crops.images.shape[1:] == (3, 32, 32)
    assert 4000 < len(crops) < 7000
    assert crops.num_classes == 0
    assert "CC BY 2.0" in crops.licence
    first, second = load_sample_images().images
    known = {first[y : y + 32, x : x + 32].tobytes() for y in range(214, 290, 8) for x in range(256, 353, 8)}
    tiles = {image.transpose(1, 2, 0).tobytes() for image in crops.images[crops.groups == 12]}  # third row, third column
    assert len(known & tiles) >= 100
    assert crops.groups is not None
    assert len(np.unique(crops.groups)) <= 40
    assert abs(float(crops.images.mean()) - float(np.mean([first.mean(), second.mean()]))) < 25


def test_no_crop_is_plain(crops: ImageSet) -> None:
    assert crops.images.astype(np.float64).std(axis=(2, 3)).max(axis=1).min() >= 8


@pytest.mark.parametrize("seed", [0, 1, 77])
def test_regions_are_not_parted(crops: ImageSet, seed: int) -> None:
    training, held = crops.split(0.1, seed)
    assert training.groups is not None
    assert held.groups is not None
    assert not set(training.groups.tolist()) & set(held.groups.tolist())
    assert len(training) + len(held) == len(crops)
    assert 0.02 < len(held) / len(crops) < 0.25
    assert np.array_equal(crops.split(0.1, seed)[1].images, held.images)
    assert not np.array_equal(crops.split(0.1, seed + 1)[1].groups, held.groups)


def test_one_group_cannot_be_split(crops: ImageSet) -> None:
    alone = dataclasses.replace(crops, groups=np.zeros(len(crops), np.int64))
    with pytest.raises(DataError, match="one group"):
        alone.split(0.1, 0)


@pytest.mark.parametrize("size", [16, 96])
def test_sizes(size: int) -> None:
    assert load("photos", size).images.shape[1:] == (3, size, size)


def test_a_size_beyond_the_regions_is_refused() -> None:
    with pytest.raises(DataError, match="at most 96"):
        load("photos", 97)
