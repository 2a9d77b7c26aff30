"""Calibration data: exactly what the network meets along the trajectory, in every row, with and without class."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from aigc_edge.bundle.inputs import SampleInputs
from aigc_edge.bundle.spec import ComponentSpec, TensorSpec
from aigc_edge.compress.calibration.trajectory import Calibration, Record, mean_square, psnr, row_errors
from aigc_edge.compress.graphs import graph
from aigc_edge.diffusion import Program
from aigc_edge.errors import AigcEdgeError


def test_records_cover_the_trajectory(rng: np.random.Generator, make: dict) -> None:
    net = make["unet"](rng)
    calibration = net.calibration(4, seed=int(rng.integers(2**31)))
    records: list[Record] = []
    network = graph.Network(net.model)
    made = calibration.run(network, records)
    rows = net.program.rows
    assert [record.row for record in records] == list(range(len(rows)))
    assert made.shape == (4, 1, 8, 8)
    assert np.abs(made).max() <= 1
    for row, record in zip(rows, records, strict=True):
        sample, timestep, classes = (record.inputs[name] for name in ("sample", "timestep", "class_labels"))
        assert (sample.dtype, timestep.dtype, classes.dtype) == (np.float32, np.float32, np.int64)
        np.testing.assert_array_equal(timestep, np.full(8, row.timestep, np.float32))
        assert classes.tolist() == [0, 1, 2, 0, 3, 3, 3, 3]  # the classes, then as many without (the null class is 3)
        np.testing.assert_array_equal(sample[:4], sample[4:])
    first = np.float32(rows[0].c_in) * (np.float32(net.program.init_scale) * calibration.latents)
    np.testing.assert_allclose(records[0].inputs["sample"][:4], first, rtol=1e-6)


def test_observed_ranges_are_those_of_the_network(rng: np.random.Generator, make: dict, tmp_path) -> None:
    """Every tensor's range in every row, against a direct look at that tensor."""
    net = make["unet"](rng)
    recipe = make["int8_recipe"](net, "onnxruntime", 4)
    names = sorted(recipe.observers)
    assert {"sample", *(layer.output for layer in recipe.layers)} <= set(names)
    inner = [name for name in names if name not in ("sample", "output")]
    watched = onnx.ModelProto()
    watched.CopyFrom(net.model)
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    network = graph.Network(watched, exact=True)
    records: list[Record] = []
    recipe.reference.calibrating.run(graph.Network(net.model), records)
    for record in records:
        values = dict(zip(network.outputs, network(record.inputs), strict=True)) | record.inputs
        for name in names:
            wanted = (values[name].min(), values[name].max())
            np.testing.assert_allclose(recipe.observers[name].rows[str(record.row)], wanted, rtol=1e-4, atol=1e-5)
    assert all(len(recipe.observers[name].rows) == len(net.program.rows) for name in names)
    rows = recipe.observers["sample"].rows
    assert recipe.observers["sample"].low == min(low for low, _ in rows.values())


def test_decoders_are_calibrated_with_latents(rng: np.random.Generator, make: dict) -> None:
    net = make["chain"](rng)
    calibration = net.calibration(5, seed=3)
    records: list[Record] = []
    made = calibration.run(graph.Network(net.model), records)
    (record,) = records
    np.testing.assert_array_equal(record.inputs["x"], calibration.latents)
    np.testing.assert_array_equal(made, np.clip(graph.Network(net.model)(record.inputs)[0], -1, 1))


def test_split_shares_nothing(rng: np.random.Generator, make: dict) -> None:
    calibration = make["unet"](rng).calibration(7)
    seen, held = calibration.split(3)
    assert (len(seen.latents), len(held.latents)) == (3, 4)
    np.testing.assert_array_equal(np.concatenate([seen.latents, held.latents]), calibration.latents)
    assert held.classes is not None
    assert held.classes.tolist() == [0, 1, 2, 0]
    assert held.seeds is not None
    assert calibration.seeds is not None
    np.testing.assert_array_equal(held.seeds, calibration.seeds[3:])
    other = make["unet"](rng).calibration(7, seed=1)
    assert not np.isin(other.latents, calibration.latents).any()


def test_errors_by_row(rng: np.random.Generator, make: dict) -> None:
    net = make["unet"](rng)
    records: list[Record] = []
    network = graph.Network(net.model)
    net.calibration(3).run(network, records)

    def worse(inputs: dict) -> list[np.ndarray]:
        """An error of one percent in the first row, of three percent in the others."""
        factor = 1.01 if inputs["timestep"][0] == np.float32(net.program.rows[0].timestep) else 1.03
        return [network(inputs)[0] * np.float32(factor)]

    rows = row_errors(worse, network, records, net.program)
    assert [row["relative_l2"] for row in rows] == pytest.approx([0.01, *[0.03] * (len(rows) - 1)], rel=1e-3)
    assert [row["sigma"] for row in rows] == [row.sigma for row in net.program.rows]


def test_mean_square_and_psnr() -> None:
    assert mean_square(np.full(4, 0.5), np.full(4, 0.3)) == pytest.approx(0.04)
    assert psnr(0.04) == pytest.approx(20.0)
    assert psnr(0.04, (0, 255)) == pytest.approx(10 * np.log10(255**2 / 0.04))
    assert psnr(0) == np.inf
    assert mean_square(np.array([np.nan]), np.zeros(1)) == np.inf


def test_what_is_missing_is_said(rng: np.random.Generator, make: dict) -> None:
    net = make["unet"](rng)
    with pytest.raises(AigcEdgeError, match="at least 1"):
        net.calibration(0)
    without = Calibration(net.spec, net.program.with_guidance(1.0), np.zeros((1, 1, 8, 8), np.float32))
    with pytest.raises(AigcEdgeError, match="'class_labels' of 'denoiser' needs classes"):
        without.run(graph.Network(net.model))


@pytest.mark.parametrize(("arrays", "samples"), [(2, 8), (3, 8), (7, 16), (20, 9)])
def test_no_array_is_on_both_sides_of_a_division(arrays: int, samples: int, rng: np.random.Generator) -> None:
    """Labels stay with their arrays, in the noise that is drawn for training too; each array has its own values."""
    inputs = [TensorSpec("x", "sample", "float32", ("N", 2)), TensorSpec("y", "class", "int64", ("N",))]
    spec = ComponentSpec("decoder", tuple(inputs), (TensorSpec("image", "sample", "float32", ("N", 2)),))
    program = Program("one-shot", slots=1, init_scale=1.0, rows=())
    values = (np.arange(arrays)[:, None] + rng.uniform(0, 0.9, (arrays, 2))).astype(np.float32)
    fed = SampleInputs.parse({"x": values, "y": np.arange(arrays)})
    calibration = Calibration.draw(spec, program, samples, num_classes=arrays, inputs=fed)
    parts = calibration.divide(samples // 2, samples - samples // 2)
    sides = [set(part.classes.tolist()) for part in parts if part.classes is not None]
    assert all(sides)
    assert not sides[0] & sides[1]
    for part in (*parts, parts[0].split(1)[0], calibration.calibrating(), calibration.calibrating().with_new_noise(50, 1)):
        np.testing.assert_array_equal(np.floor(part.latents[:, 0]), part.classes)
    assert not set(calibration.calibrating().with_new_noise(50, 1).classes.tolist()) & sides[1]
    again = parts[0].divide(2, 2)
    if len(sides[0]) > 1:
        assert not set(again[0].classes.tolist()) & set(again[1].classes.tolist())


def test_few_pictures_and_their_variants_are_divided(rng: np.random.Generator) -> None:
    spec = ComponentSpec(
        "decoder",
        (TensorSpec("x", "sample", "float32", ("N", 1, 4, 4)),),
        (TensorSpec("image", "sample", "float32", ("N", 1, 4, 4)),),
    )
    program = Program("one-shot", slots=1, init_scale=1.0, rows=())
    values = (np.arange(3)[:, None, None, None] + rng.uniform(0, 0.9, (3, 1, 4, 4))).astype(np.float32)
    calibration = Calibration.draw(spec, program, 12, inputs=SampleInputs.parse({"x": values}))
    first, second = calibration.divide(6, 6)
    new = calibration.calibrating().with_new_noise(30, 2)
    numbers = [set(np.floor(part.latents).ravel().astype(int).tolist()) for part in (first, second, new)]
    assert numbers == [{0, 2}, {1}, {0, 2}]
    assert calibration.fingerprint() != first.fingerprint()


def test_noise_is_divided_as_it_is_split(rng: np.random.Generator, make: dict) -> None:
    calibration = make["unet"](rng).calibration(7)
    for one, other in zip(calibration.divide(3, 2), (calibration.split(3)[0], calibration.split(3)[1].split(2)[0]), strict=True):
        assert one.fingerprint() == other.fingerprint()
    assert calibration.calibrating() is calibration
