"""What a generator of one evaluation takes: distributions by name, arrays, and values far from what was calibrated."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aigc_edge.bundle.inputs import FEW, SampleInputs, far_from, looks_normal
from aigc_edge.errors import AigcEdgeError

SHAPE = (3, 16, 20)
INDEX = np.arange(64)


def test_uniform_inputs_are_uniform(rng: np.random.Generator) -> None:
    inputs = SampleInputs.parse("uniform:-2:6")
    assert str(inputs) == "uniform:-2:6"
    drawn = inputs.take("x", SHAPE, INDEX, int(rng.integers(1 << 40)))
    assert drawn.shape == (64, *SHAPE)
    assert drawn.dtype == np.float32
    assert -2 <= drawn.min() < -1.99
    assert 5.99 < drawn.max() <= 6
    histogram, _ = np.histogram(drawn, 16, (-2, 6))
    assert np.abs(histogram / (drawn.size / 16) - 1).max() < 0.1  # a deviation of 0.016 each
    noise = rng.standard_normal(4096).astype(np.float32)
    exact = np.array([0.5 * (1 + math.erf(z / math.sqrt(2))) for z in noise])
    np.testing.assert_allclose(SampleInputs.parse("uniform:0:1").transformed(noise), exact, atol=1e-6)
    assert (SampleInputs.parse("uniform").low, SampleInputs.parse("uniform").high) == (-1, 1)


def test_inputs_on_the_sphere(rng: np.random.Generator) -> None:
    drawn = SampleInputs.parse("sphere").take("x", SHAPE, INDEX, 3)
    np.testing.assert_allclose(np.sqrt(np.square(drawn).sum((1, 2, 3))), math.sqrt(math.prod(SHAPE)), rtol=1e-5)


@pytest.mark.parametrize("text", ["normal", "uniform", "uniform:0:255", "sphere"])
def test_a_sample_does_not_depend_on_the_others(text: str) -> None:
    inputs = SampleInputs.parse(text)
    assert SampleInputs.parse(str(inputs)) == inputs
    np.testing.assert_array_equal(inputs.take("x", SHAPE, INDEX[5:7], 1), inputs.take("x", SHAPE, INDEX, 1)[5:7])
    assert not np.array_equal(inputs.take("x", SHAPE, INDEX[:1], 1), inputs.take("x", SHAPE, INDEX[:1], 2))


def test_few_arrays_are_shifted_and_mirrored(rng: np.random.Generator, tmp_path) -> None:
    images = rng.uniform(0, 255, (3, *SHAPE)).astype(np.float32)
    np.savez(tmp_path / "inputs.npz", x=images)
    for value in (str(tmp_path / "inputs.npz"), tmp_path / "inputs.npz", {"x": images}):
        drawn = SampleInputs.parse(value).take("x", SHAPE, np.arange(9), 0)
        np.testing.assert_array_equal(drawn[:3], images)
        for index in range(3, 9):  # the same pixels, elsewhere
            np.testing.assert_array_equal(np.sort(drawn[index].reshape(3, -1)), np.sort(images[index % 3].reshape(3, -1)))
        assert len({each.tobytes() for each in drawn}) == 9
    many = rng.uniform(0, 1, (FEW, 5)).astype(np.float32)
    np.testing.assert_array_equal(SampleInputs.parse({"x": many}).take("x", (5,), np.arange(2 * FEW), 0), np.tile(many, (2, 1)))
    vector = SampleInputs.parse({"x": many[:1]}).take("x", (5,), np.arange(3), 0)
    assert set(vector.ravel()) <= set(many[0])


@pytest.mark.parametrize("text", ["gaussian", "uniform:1", "uniform:2:1", "uniform:0:inf", "uniform:a:b", "", "normal:1"])
def test_what_is_no_distribution_is_refused(text: str) -> None:
    with pytest.raises(AigcEdgeError, match="uniform:LOW:HIGH or sphere"):
        SampleInputs.parse(text)


def test_arrays_that_cannot_be_used_are_refused(tmp_path) -> None:
    (tmp_path / "broken.npz").write_bytes(b"PK no zip")
    with pytest.raises(AigcEdgeError, match="cannot be read as arrays"):
        SampleInputs.parse(tmp_path / "broken.npz")
    with pytest.raises(AigcEdgeError, match="cannot be read as arrays"):
        SampleInputs.parse(tmp_path / "missing.npz")
    for arrays, words in (
        ({}, "no arrays"),
        ({"x": np.zeros(())}, "finite numbers"),
        ({"x": np.full((2, 3), np.nan)}, "finite numbers"),
        ({"x": np.array(["a"])}, "finite numbers"),
        ({"x": np.zeros((2, 3)), "y": np.zeros((3, 3))}, "x 2, y 3"),
    ):
        with pytest.raises(AigcEdgeError, match=words):
            SampleInputs.parse(arrays)


def test_values_far_from_the_calibrated_range() -> None:
    pixels = np.linspace(0, 255, 100)
    assert far_from(pixels, (0, 255)) is None
    assert far_from(pixels[:5], (0, 255)) is None, "a dark image"
    assert "at most 1" in str(far_from(pixels / 255, (0, 255)))
    assert "0 to 255" in str(far_from(pixels, (0, 1)))
    assert "-255" in str(far_from(-pixels, (0, 255)))
    assert "nan" in str(far_from(np.array([np.nan]), (0, 1)))
    assert far_from(np.zeros(4), (0, 255)) is None
    assert far_from(np.zeros(0), (0, 255)) is None


def test_example_values_that_are_placeholders(rng: np.random.Generator) -> None:
    assert all(looks_normal(value) for value in (np.zeros((1, 8)), np.ones((2, 3, 4, 4)), rng.standard_normal((1, 100))))
    assert looks_normal(rng.standard_normal((4, 3, 8, 8)))
    assert not looks_normal(rng.uniform(0, 1, (1, 3, 16, 16)))
    assert not any(looks_normal(sign * rng.uniform(0, 1, (1, size))) for sign in (1, -1) for size in (16, 24, 32))
    assert not looks_normal(rng.uniform(0, 255, (1, 3, 4, 4)))
    assert not looks_normal(3 * rng.standard_normal((1, 3, 16, 16)))


def test_every_third_array_judges(rng: np.random.Generator) -> None:
    images, labels = rng.uniform(0, 1, (10, 2, 3)).astype(np.float32), np.arange(10)
    inputs = SampleInputs.parse({"x": images, "y": labels})
    judging, training = inputs.part(held_out=True), inputs.part(held_out=False)
    np.testing.assert_array_equal(judging.arrays["y"], [2, 5, 8])
    assert sorted([*judging.arrays["y"], *training.arrays["y"]]) == list(range(10))
    for part in (judging, training):
        np.testing.assert_array_equal(part.arrays["x"], images[part.arrays["y"]])
        np.testing.assert_array_equal(part.take("x", (2, 3), INDEX, 0), images[part.arrays["y"]][INDEX % part.count])
    two = SampleInputs.parse({"x": images[:2]})
    assert two.part(held_out=True) is two.part(held_out=False) is two
    uniform = SampleInputs.parse("uniform")
    assert uniform.part(held_out=True) is uniform
    vectors = SampleInputs.parse({"x": images[:9, 0]}).part(held_out=True)  # values of others would be no vectors of the data
    np.testing.assert_array_equal(vectors.take("x", (3,), np.arange(6), 0), np.tile(images[[2, 5, 8], 0], (2, 1)))
