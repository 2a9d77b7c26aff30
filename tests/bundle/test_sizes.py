"""Shapes that follow the image size, and a manifest at one of its sizes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from aigc_edge.bundle.component import Component
from aigc_edge.bundle.manifest import Manifest
from aigc_edge.bundle.sizes import at, follows, image_size, number, sides, units
from aigc_edge.bundle.spec import ComponentSpec, TensorSpec
from aigc_edge.errors import AigcEdgeError, BundleError


def test_a_side_is_a_number_where_it_is_the_same_at_every_size() -> None:
    assert sides([(512, 768)], 8) == (64, 96)
    assert sides([(512, 768), (512, 512)], 8) == (64, "W/8")
    assert sides([(512, 768), (256, 768)]) == ("H", 768)
    assert sides([(512, 768), (256, 512)], 4) == ("H/4", "W/4")


def test_shapes_at_every_size(rng: np.random.Generator) -> None:
    for _ in range(50):
        scale = int(rng.integers(1, 9))
        sizes = [(int(h) * scale, int(w) * scale) for h, w in rng.integers(1, 40, (3, 2))]
        shape = ("N", 4, *sides(sizes, scale))
        for height, width in sizes:
            assert at(shape, (height, width)) == ("N", 4, height // scale, width // scale)
            assert all(height % units(sizes)[0] == 0 and width % units(sizes)[1] == 0 for height, width in sizes)
    assert at(("N", 3, 8), None) == ("N", 3, 8)


@pytest.mark.parametrize("dim", ["N", "X", "H/0", "H/", "8H", "h", 7, "H/8/8", "", None])
def test_what_follows_no_size_stays(dim: Any) -> None:
    assert not follows(dim)
    assert number(dim, (64, 64)) is dim


def test_a_part_that_is_no_whole_number() -> None:
    with pytest.raises(BundleError, match=r"'H/7', which is no whole number at the size 64x70"):
        at(("H/7", "W/7"), (64, 70))


def manifest() -> Manifest:
    tensor = TensorSpec("x", "sample", "float32", ("N", 4, "H/8", 8))
    clock = TensorSpec("t", "timestep", "float32", ("N",))
    denoiser, other = ComponentSpec("denoiser", (tensor, clock), (tensor,)), ComponentSpec("other", (clock,), ())
    components = {spec.name: Component(spec, {}) for spec in (denoiser, other)}
    sizes = ((64, 64), (128, 64))
    return Manifest(sizes=sizes, sample_shape=(4, "H/8", 8), output_shape=(3, "H", 64), components=components)


def test_a_manifest_at_its_sizes() -> None:
    whole = manifest()
    before = copy.deepcopy(whole)
    assert whole.default_size == (64, 64)
    for size, side in (None, 8), ((64, 64), 8), ((128, 64), 16):
        found = whole.at(size)
        assert (found.sample_shape, found.output_shape) == ((4, side, 8), (3, 8 * side, 64))
        denoiser = found.components["denoiser"]
        assert [t.shape for t in denoiser.spec.inputs] == [("N", 4, side, 8), ("N",)]
        assert denoiser.spec.outputs[0].shape == ("N", 4, side, 8)
        assert denoiser.onnx == denoiser.spec
        assert denoiser.dims == {"H/8": side}
        assert found.components["other"].dims == {}
        assert found.sizes == whole.sizes
    assert whole == before, "what was read stays as it is"
    with pytest.raises(AigcEdgeError, match=r"no size 64x128: choose one of 64x64, 128x64"):
        whole.at((64, 128))


def test_a_manifest_of_one_size() -> None:
    one = Manifest(sample_shape=(4, 8, 8), output_shape=(3, 64, 64))
    assert one.default_size is None
    assert one.at() == one.at((64, 64)) == one
    with pytest.raises(AigcEdgeError, match="the size 8x8 was requested, but this bundle has 64x64 alone"):
        one.at((8, 8))


@pytest.mark.parametrize("given", [64, "64x64", (64,), (1, 2, 3), (0, 64), (64, 1 << 20), (64.0, 64), (True, 64), "12"])
def test_a_size_that_is_none(given: Any) -> None:
    with pytest.raises(AigcEdgeError, match=r"size|height|width"):
        image_size(given)
    assert image_size(np.array([3, 5])) == (3, 5)
