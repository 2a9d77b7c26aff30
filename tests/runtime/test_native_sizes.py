"""A bundle of several image sizes in the native runtime: every size samples as a bundle of that size does."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from aigc_edge import _core
from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.write import write_members
from aigc_edge.errors import AigcEdgeError, BundleError
from aigc_edge.report.summary import render
from aigc_edge.runtime import pipeline

SIZES = [(6, 10), (12, 8), (6, 4)]


def following(manifest: dict[str, Any], *shape: Any) -> dict[str, Any]:
    """The manifest of one denoiser whose sample has this shape."""
    changed = copy.deepcopy(manifest) | {"sample_shape": list(shape), "output_shape": list(shape)}
    (component,) = changed["components"].values()
    for tensor in [*component["inputs"], *component["outputs"]]:
        if tensor["role"] == "sample":
            tensor["shape"] = ["N", *shape]
    return changed


@pytest.fixture
def sized(engine, toy, tmp_path):
    """Writes a bundle of the shapes (2, H, W), with changes to its manifest."""

    def write(*shape, name="sized", **changes):
        path = tmp_path / f"{name}.aigc"
        manifest = following(toy.manifest(), *(shape or (2, "H", "W"))) | changes
        write_members(path, manifest, {"net.onnx": b"the analytic engine reads no file"})
        return path

    return write


def test_every_size_is_what_a_bundle_of_it_gives(sized, rng):
    bundle = sized(sizes=[list(size) for size in SIZES])
    seed = int(rng.integers(2**40))
    for height, width in SIZES:
        alone = sized(2, height, width, name=f"alone-{height}-{width}")
        with (
            pipeline.open(bundle, engine="analytic", size=(height, width)) as one,
            pipeline.open(alone, engine="analytic") as own,
        ):
            assert one.size == own.size == (height, width)
            assert one.manifest.main.spec.inputs[0].shape == ("N", 2, height, width)
            wanted = own.sample(3, seed=seed, output="float32")
            np.testing.assert_array_equal(one.sample(3, seed=seed, output="float32"), wanted)
    with pipeline.open(bundle, engine="analytic") as first:
        assert first.size == SIZES[0]


def test_a_size_that_the_bundle_does_not_have(sized, make_bundle):
    bundle = sized(sizes=[list(size) for size in SIZES])
    with pytest.raises(AigcEdgeError, match=r"has no size 64x64: choose one of 6x10, 12x8, 6x4$"):
        pipeline.open(bundle, engine="analytic", size=(64, 64))
    with pytest.raises(AigcEdgeError, match=r"has no size 8x8: its images are 3x5, compile it with several sizes"):
        pipeline.open(make_bundle(), engine="analytic", size=(8, 8))
    assert pipeline.open(make_bundle(), engine="analytic", size=(3, 5)).size == (3, 5)
    with pytest.raises(AigcEdgeError, match="give the height and the width"):
        pipeline.open(bundle, engine="analytic", size=64)
    with pytest.raises(AigcEdgeError, match="image_size is -1x5: give the height and width"):
        _core.Handle(str(bundle), None, size=(-1, 5))


@pytest.mark.parametrize(
    ("shape", "sizes", "words"),
    [
        ((2, "H", "W"), None, r"sample_shape\[1\] is \"H\", which follows no size"),
        ((2, "H", "W"), [], r"sizes must hold 1 to 1024 sizes"),
        ((2, "H", "W"), [[6]], r"sizes\[0\] must be \[height, width\]"),
        ((2, "H", "W"), [[6, 0]], r"sizes\[0\]\[1\]"),
        ((2, "H", "W"), [[6, "W"]], r"sizes\[0\]\[1\]"),
        ((2, "H", "W"), [[6, 1 << 20]], r"sizes\[0\]\[1\]"),
        ((2, "H", "W"), "6x10", r"manifest.sizes"),
        ((2, "H/2", "W/2"), [[6, 10]], r"output_shape must be \[C, H, W\] of the size"),
        ((2, "H/4", "W"), [[6, 10]], r"\"H/4\", which is no whole part of 6x10"),
        ((2, "H/0", "W"), [[6, 10]], r"\"H/0\", which is no whole part"),
        ((2, "H/", "W"), [[6, 10]], r"\"H/\", which is no whole part"),
        ((2, "H/99999999999", "W"), [[6, 10]], r"which is no whole part"),
        ((2, "H/x", "W"), [[6, 10]], r"\"H/x\", it must be such as"),
        ((2, "", "W"), [[6, 10]], r"sample_shape\[1\] is \"\", which follows no size"),
        ((2, "N", "W"), [[6, 10]], r"\"N\", which follows no size"),
        ((2, 6.5, "W"), [[6, 10]], r"sample_shape\[1\]"),
        (("H", "H", "H", "H", "H", "H", "H"), [[60000, 60000]], r"more than 2\^31 elements"),
    ],
)
def test_broken_sizes_are_said(sized, shape, sizes, words):
    with pytest.raises(BundleError, match=words):
        pipeline.open(sized(*shape, sizes=sizes), engine="analytic")


def test_inspect_lists_the_sizes(sized):
    shown = render(Bundle.open(sized(sizes=[list(size) for size in SIZES]), verify=True).manifest)
    assert "sizes 6x10 (default), 12x8, 6x4" in shown
    assert "[N, 2, H, W]" in shown
