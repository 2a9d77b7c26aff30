"""Scaling, splits and fingerprints of images in memory; the digits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigc_edge.data import DATASETS, ImageSet, load
from aigc_edge.errors import DataError


def image_set(labels: list[int], classes: int) -> ImageSet:
    images = np.arange(len(labels) * 4, dtype=np.int64).reshape(-1, 1, 2, 2) % 256
    return ImageSet(images.astype(np.uint8), np.array(labels, np.int64), tuple(map(str, range(classes))), "test", "none")


def test_scaled_is_exact() -> None:
    data = ImageSet(np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1), np.zeros(256, np.int64), (), "test", "none")
    scaled = data.scaled()
    assert scaled.dtype == np.float32
    assert (scaled.min(), scaled.max()) == (-1, 1)
    assert np.array_equal(np.rint((scaled.astype(np.float64) + 1) / 2 * 255), data.images)  # the way back loses nothing


@given(
    labels=st.lists(st.integers(0, 3), min_size=2, max_size=80),
    fraction=st.floats(0.01, 0.5),
    seed=st.integers(0, 2**40),
    conditional=st.booleans(),
)
def test_split_is_stratified_disjoint_and_whole(labels: list[int], fraction: float, seed: int, conditional: bool) -> None:
    data = image_set(labels if conditional else [0] * len(labels), 4 if conditional else 0)
    training, held = data.split(fraction, seed)
    assert len(held) >= 1
    assert len(training) + len(held) == len(data)
    pixels = sorted([*map(bytes, training.images), *map(bytes, held.images)])
    assert pixels == sorted(map(bytes, data.images))
    for label in set(data.labels.tolist()):
        total = int((data.labels == label).sum())
        kept = int((training.labels == label).sum())
        wanted = min(round(fraction * total), total - 1)
        assert total - kept in ({wanted, 1} if len(held) == 1 else {wanted})
    again = data.split(fraction, seed)
    assert np.array_equal(again[1].images, held.images)


def test_split_depends_on_the_seed_and_keeps_pairs() -> None:
    data = image_set([i % 3 for i in range(60)], 3)
    one, two = data.split(0.3, 1)[1], data.split(0.3, 2)[1]
    assert not np.array_equal(one.images, two.images)
    for part in data.split(0.3, 1):
        for image, label in zip(part.images, part.labels, strict=True):
            assert image[0, 0, 0] // 4 % 3 == label  # as they were built


def test_one_image_cannot_be_split() -> None:
    with pytest.raises(DataError, match="has 1 image: give at least 2"):
        image_set([0], 0).split(0.1, 0)


def test_fingerprint_sees_everything_that_matters() -> None:
    data = image_set([0, 1, 0, 1], 2)
    changed = [
        dataclasses.replace(data, images=data.images ^ np.uint8(1)),
        dataclasses.replace(data, images=data.images.reshape(4, 1, 1, 4)),
        dataclasses.replace(data, labels=1 - data.labels),
        dataclasses.replace(data, class_names=("x", "y")),
    ]
    prints = {dataclasses.replace(other, _fingerprint="").fingerprint for other in [data, *changed]}
    assert len(prints) == 5
    same = dataclasses.replace(data, source="elsewhere", images=np.asfortranarray(data.images), _fingerprint="")
    assert same.fingerprint == data.fingerprint


def test_digits() -> None:
    data = load("digits")
    assert data.images.shape == (1797, 1, 16, 16)
    assert data.class_names == tuple("0123456789")
    assert np.bincount(data.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert "CC BY 4.0" in data.licence
    assert data.fingerprint == load("digits", 16).fingerprint != load("digits", 8).fingerprint


def keys_matrix(small: int, large: int) -> np.ndarray:
    """Bicubic resampling (Keys 1981, a = -1/2) as a matrix [large, small], renormalised at the borders."""
    centre = (np.arange(large) + 0.5) * small / large
    x = np.abs(np.arange(small) + 0.5 - centre[:, None])
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weight = np.where(x < 1, near, np.where(x < 2, far, 0))
    return weight / weight.sum(1, keepdims=True)


@pytest.mark.parametrize("size", [16, 24])
def test_digits_are_the_originals_resampled(size: int) -> None:
    from sklearn.datasets import load_digits

    original, matrix = load_digits().images / 16, keys_matrix(8, size)
    wanted = np.clip(np.rint(255 * (matrix @ original @ matrix.T)), 0, 255)
    assert np.abs(load("digits", size).images[:, 0] - wanted).max() <= 1  # halves may round either way
    assert np.array_equal(load("digits", 8).images[:, 0], np.rint(original * 255))


@pytest.mark.parametrize("size", [0, -1, 3, 1025])
def test_sizes_are_bounded(size: int) -> None:
    with pytest.raises(DataError, match="give 4 to 1024 pixels"):
        load("digits", size)


def test_named_data_sets_are_found() -> None:
    assert "digits" in DATASETS.names()
