"""Tiles: decoding and denoising in parts that overlap, against the whole and against NumPy."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest

from aigc_edge.bundle.write import write_members
from aigc_edge.diffusion import build, reference
from aigc_edge.errors import AigcEdgeError, BundleError
from aigc_edge.runtime import pipeline

SCALE = 2  # pixels of the image for one entry of the sample
OWN = (12, 16)  # of the image


def blurred(x: np.ndarray, radius: int) -> np.ndarray:
    """A convolution of 2 · radius + 1 in both directions, zero-padded, whose sums do not depend on where they are computed."""
    padded = np.pad(x, [(0, 0), (0, 0), (radius, radius), (radius, radius)])
    height, width = x.shape[2:]
    parts = [
        (1 + 0.3 * i - 0.2 * j) * padded[:, :, i : i + height, j : j + width]
        for i in range(2 * radius + 1)
        for j in range(2 * radius + 1)
    ]
    return (sum(parts) / len(parts)).astype(x.dtype)


def decoder_of(radius: int) -> Any:
    """A decoder without global operations: every pixel depends on the entries of the sample within `radius`."""

    def decode(sample: np.ndarray, class_labels: np.ndarray | None = None) -> np.ndarray:
        shift = 0 if class_labels is None else 0.1 * class_labels[:, None, None, None]
        rgb = np.concatenate([blurred(sample, radius) + shift, np.tanh(sample[:, :1])], axis=1)
        return np.repeat(np.repeat(rgb, SCALE, 2), SCALE, 3).astype(sample.dtype)

    return decode


@pytest.fixture
def latent_bundle(toy, tmp_path):
    """latent_bundle(sizes=None, **changes): a bundle with a decoder, of the size OWN alone or of several."""

    def write(sizes=None, *, denoiser=True, decoder=True, name="latent", label=True, field=None, **changes):
        value = copy.deepcopy(toy.manifest())
        scale = SCALE if decoder else 1
        sample: list[Any] = [2, *(side // scale for side in OWN)] if sizes is None else [2, f"H/{scale}", f"W/{scale}"]
        image: list[Any] = [3 if decoder else 2, *(OWN if sizes is None else "HW")]
        for tensor in [*value["components"]["denoiser"]["inputs"], *value["components"]["denoiser"]["outputs"]]:
            if tensor["role"] == "sample":
                tensor["shape"] = ["N", *sample]
        entry = {"name": "sample", "role": "sample", "dtype": "float32", "shape": ["N", *sample]}
        labels = [{"name": "class_labels", "role": "class", "dtype": "int64", "shape": ["N"]}] if label else []
        components = {"denoiser": value["components"]["denoiser"]} if denoiser else {}
        if decoder:
            components["decoder"] = {
                "inputs": [entry, *labels],
                "outputs": [entry | {"name": "output", "shape": ["N", *image]}],
                "formats": {"fp32": {"file": "net.onnx"}},
                "receptive_field": field,
            }
        value |= {"sample_shape": sample, "output_shape": image, "components": components}
        value |= {} if sizes is None else {"sizes": [list(size) for size in sizes]}
        if not denoiser:
            program = {"version": 1, "name": "one-shot", "slots": 1, "init_scale": 1.0, "guidance_scale": 1.0, "rows": []}
            value |= {"programs": {"one-shot": program}, "default_program": "one-shot"}
        path = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}.aigc"
        write_members(path, value | changes, {"net.onnx": b"the analytic engine reads no file"})
        return path

    return write


def opened(path, **options):
    return pipeline.open(path, engine="analytic", threads=1, **options)


SIZES = [(48, 56), (24, 40), (16, 16)]


@pytest.mark.parametrize("tile", [(24, 24), (16, 28), (48, 20), (40, 56)])
def test_decoding_in_tiles_is_decoding_the_whole_where_nothing_is_global(latent_bundle, engine, rng, tile):
    """With an overlap of four times the radius of the receptive field, to rounding; with less it is not."""
    engine.networks["decoder"] = decoder_of(radius=1)
    path, seed = latent_bundle(SIZES), int(rng.integers(2**40))
    with opened(path) as whole, opened(path, tile=tile, overlap=4 * SCALE) as tiled, opened(path, tile=tile, overlap=0) as none:
        assert whole.size == tiled.size == (48, 56)
        wanted = whole.sample(3, seed=seed, output="float32")
        engine.calls.clear()
        actual = tiled.sample(3, seed=seed, output="float32")
        decoded = [batch for name, batch in engine.calls if name == "decoder"]
        assert len(decoded) >= 6
        assert set(decoded) == {1}  # a sample at a time
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=4 * np.finfo(np.float32).eps * np.abs(wanted).max())
        assert np.abs(none.sample(3, seed=seed, output="float32") - wanted).max() > 1e-3
        np.testing.assert_array_equal(tiled.sample(3, seed=seed).astype(int) - whole.sample(3, seed=seed), 0)


def test_a_sample_in_tiles_depends_on_its_seed_and_class_alone(latent_bundle, engine, rng):
    engine.networks["decoder"] = decoder_of(radius=2)
    seed, classes = int(rng.integers(2**40)), rng.integers(0, 4, 5)
    with opened(latent_bundle(), size=(20, 36), denoising_tile=OWN, overlap=4) as pipe:
        every = pipe.sample(5, seed=seed, classes=classes, output="float32")
        assert every.shape == (5, 3, 20, 36)
        for i, label in enumerate(classes):
            np.testing.assert_array_equal(pipe.sample(1, seed=seed + i, classes=int(label), output="float32"), every[i : i + 1])


def ramp(length: int, tile: int, overlap: int) -> list[tuple[int, np.ndarray]]:
    """Starts and normalised weights of tiles along an axis, as the documentation says."""
    count = 1 if length == tile else -(-(length - tile) // (tile - overlap)) + 1
    starts = [0] if count == 1 else [(length - tile) * i // (count - 1) for i in range(count)]
    total, weights = np.zeros(length), []
    quarter = overlap // 4
    rise = (np.arange(tile) - quarter + 0.5) / max(overlap - 2 * quarter, 0.5)
    for i, start in enumerate(starts):
        left = np.where(np.arange(tile) < quarter, 0, np.minimum(rise, 1)) if i else np.ones(tile)
        right = np.where(np.arange(tile) < quarter, 0, np.minimum(rise, 1))[::-1] if i < count - 1 else np.ones(tile)
        weights.append(np.minimum(left, right))
        total[start : start + tile] += weights[-1]
    return [(start, w / total[start : start + tile]) for start, w in zip(starts, weights, strict=True)]


def averaged(network, shape: tuple[int, int], tile: tuple[int, int], overlap: int) -> Any:
    """The network of MultiDiffusion: the weighted mean of its outputs on windows."""

    def evaluate(sample, timestep, class_labels):
        out = np.zeros_like(sample)
        for top, rows in ramp(shape[0], tile[0], overlap):
            for left, columns in ramp(shape[1], tile[1], overlap):
                window = (..., slice(top, top + tile[0]), slice(left, left + tile[1]))
                part = network(np.ascontiguousarray(sample[window]), timestep, class_labels)
                out[window] += (rows[:, None] * columns * part).astype(sample.dtype)
        return out

    return evaluate


@pytest.mark.parametrize("overlap", [0, 1, 2, 6, 10])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "euler_ancestral"])
def test_tiled_denoising_is_multidiffusion(latent_bundle, engine, toy, rng, overlap, solver):
    program = build(toy.SCHEDULE, solver, 4, guidance_scale=2.5)
    path = latent_bundle(decoder=False, programs={program.name: program.to_json()}, default_program=program.name)
    size = (int(rng.integers(20, 30)), int(rng.integers(20, 40)))
    classes, latents = rng.integers(0, 4, 2), rng.normal(size=(2, 2, *size)).astype(np.float32)
    noise = rng.normal(size=(len(program.draws), 2, 2, *size)).astype(np.float32)
    with opened(path, size=size, denoising_tile=OWN, overlap=overlap) as pipe:
        assert pipe.size == size
        actual = pipe.sample(2, classes=classes, latents=latents, noise=noise, output="float32")

    def run(dtype):
        draws = iter(noise)
        network = averaged(toy.denoiser, size, OWN, overlap)
        draw = lambda *_: next(draws)  # noqa: E731
        return reference.run(program, network, latents, classes=classes, null_class=toy.CLASSES, draw=draw, dtype=dtype)

    exact = run(np.float64)
    # The largest of 120 draws was 2.4e-7 of the largest value.
    np.testing.assert_allclose(actual, exact, rtol=0, atol=2e-6 * np.abs(exact).max())


def test_the_default_overlaps_are_a_quarter_and_a_half(latent_bundle, engine, rng):
    engine.networks["decoder"] = decoder_of(radius=1)
    with opened(latent_bundle(SIZES), size=(48, 80), denoising_tile=(16, 16), tile=(24, 40)) as pipe:
        pipe.sample(1, seed=3, guidance_scale=1.0)
    rows = len(
        build({"prediction": "edm", "sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}, "dpmpp_2m", 6).rows
    )
    counts = {name: sum(1 for own, _ in engine.calls if own == name) for name in ("denoiser", "decoder")}
    # Of the denoiser 24 x 40 entries in tiles of 8 with 4 in common: 5 x 9; of the decoder in 12 x 20 with 3 and 5: 3 x 3.
    assert counts == {"denoiser": 45 * rows, "decoder": 9}


def test_tiles_follow_the_receptive_field(latent_bundle, engine):
    """They are not smaller, and overlap by twice of it unless that is more than half."""
    engine.networks["decoder"] = decoder_of(radius=1)
    path = latent_bundle(SIZES, field=3)
    said = "no tile of 12x24: pixels of its decoder depend on 6x6 pixels to each side, so that tiles must have at least 14x14"
    with pytest.raises(AigcEdgeError, match=said):
        opened(path, tile=(12, 24))
    for tile, wanted in (((16, 16), 5 * 6), ((48, 28), 1 * 3)):
        with opened(path, tile=tile) as pipe:
            engine.calls.clear()
            pipe.sample(1)
            assert sum(1 for name, _ in engine.calls if name == "decoder") == wanted
    with pytest.raises(BundleError, match="receptive_field"):
        opened(latent_bundle(SIZES, field=-1))


def test_a_decoder_alone_decodes_larger_latents(latent_bundle, engine, rng):
    engine.networks["decoder"] = decode = decoder_of(radius=1)
    latents = rng.normal(size=(2, 2, 18, 24)).astype(np.float32)
    with opened(latent_bundle(denoiser=False, label=False, classes=None), size=(36, 48), tile=OWN, overlap=8) as pipe:
        actual = pipe.sample(2, latents=latents, output="float32")
    wanted = decode(latents)
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=4 * np.finfo(np.float32).eps * np.abs(wanted).max())


@pytest.mark.parametrize("sizes", [[(8, 64), (8, 16)], [(64, 8), (16, 8)]])
def test_only_the_sides_that_are_divided_limit_the_overlap(latent_bundle, engine, rng, sizes):
    engine.networks["decoder"] = decoder_of(radius=1)
    path, seed = latent_bundle(sizes), int(rng.integers(2**40))
    with opened(path) as whole, opened(path, tile=sizes[1], overlap=8) as tiled:
        wanted = whole.sample(2, seed=seed, output="float32")
        actual = tiled.sample(2, seed=seed, output="float32")
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=4 * np.finfo(np.float32).eps * np.abs(wanted).max())
    with pytest.raises(AigcEdgeError, match=r"no overlap of 16 pixels: .* smaller than a tile of"):
        opened(path, tile=sizes[1], overlap=16)
    with pytest.raises(AigcEdgeError, match=r"no overlap of 8 pixels: .* smaller than a tile of"):
        opened(path, tile=sizes[0], overlap=8)  # one tile, which overlaps with none


@pytest.mark.parametrize("shape", [(1, 6, 8), (3, *OWN), (4, 3, 4), (2, 1, 6, 8)])
def test_conditions_on_the_image_cannot_be_tiled(latent_bundle, engine, toy, shape):
    """Be they of the sample's resolution, in pixels, or between."""
    on_image = {"name": "control", "role": "condition", "dtype": "float32", "shape": ["N", *shape]}
    components = json.loads((latent_bundle(label=False) / "manifest.json").read_text())["components"]
    components["denoiser"]["inputs"].append(on_image)
    with pytest.raises(AigcEdgeError, match="no tiles of its denoiser: the condition control lies on the image"):
        opened(latent_bundle(components=components), size=(24, 32), denoising_tile=OWN)
    on_image["shape"] = ["N", 6, 8]  # tokens
    assert opened(latent_bundle(components=components), size=(24, 32), denoising_tile=OWN).size == (24, 32)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tile": (0, 16)}, "the height of tile is 0: it must be a whole number from 1"),
        ({"tile": (-8, 16)}, "the height of tile is -8"),
        ({"tile": 16}, "tile is 16: give the height and the width of the tiles"),
        ({"denoising_tile": "ab"}, "the height of denoising_tile is 'a'"),
        ({"tile": (15, 16)}, "no tile of 15x16: its height and width must be multiples of 2x2 pixels"),
        ({"tile": (64, 16)}, "no tile of 64x16: it must not be larger than the image, 48x56"),
        ({"tile": (16, 16), "overlap": 16}, "no overlap of 16 pixels: it must be a multiple of 2x2, and smaller"),
        ({"tile": (16, 16), "overlap": 3}, "no overlap of 3 pixels: it must be a multiple of 2x2"),
        ({"tile": (16, 16), "overlap": -2}, "overlap is -2: it must be a whole number from 0"),
        ({"overlap": 2}, "no tiles that could overlap: give tile or denoising_tile"),
        ({"denoising_tile": (20, 20)}, "no denoising_tile of 20x20: choose a size that the bundle was compiled for, 48x56"),
        ({"size": (96, 96), "tile": (16, 16)}, "no size 96x96: choose one of 48x56, 24x40, 16x16, or give one of them as denois"),
        ({"size": (97, 96), "denoising_tile": (16, 16)}, "no size 97x96: height and width must be multiples of 2x2"),
        ({"size": (65536, 65536), "denoising_tile": (16, 16)}, "no size 65536x65536: it has more than 2.31 elements"),
        ({"size": (96, 96)}, "no size 96x96: choose one of 48x56, 24x40, 16x16$"),
    ],
)  # fmt: skip
def test_what_is_impossible_is_refused(latent_bundle, engine, options, words):
    with pytest.raises(AigcEdgeError, match=words):
        opened(latent_bundle(SIZES), **options)


def test_networks_that_take_no_tiles_are_refused(latent_bundle, engine, make_bundle):
    fixed = latent_bundle()
    with pytest.raises(AigcEdgeError, match="no tile of 6x8: its decoder takes a sample of 6x8 entries alone, each 2x2 pixels"):
        opened(fixed, tile=(6, 8))
    with pytest.raises(AigcEdgeError, match="no decoder, which a tile is for: leave tile out"):
        opened(latent_bundle(decoder=False), tile=(6, 8))
    with pytest.raises(AigcEdgeError, match="no tiles: what its networks take is no image"):
        opened(make_bundle("gan"), tile=(3, 5))
    with pytest.raises(AigcEdgeError, match="no denoiser, which a denoising tile is for"):
        opened(latent_bundle(denoiser=False), denoising_tile=OWN)
    assert opened(fixed, tile=OWN).size == OWN
