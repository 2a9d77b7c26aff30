"""Schedule constants in the native runtime: the samples of the whole network, from the table or evaluated once a timestep."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from aigc_edge.bundle.write import write_members
from aigc_edge.diffusion import build
from aigc_edge.errors import AigcEdgeError, BundleError
from aigc_edge.runtime import pipeline

STEPS = 9  # not among the steps of the bundle's own programs


@pytest.fixture
def whole(engine, toy, make_bundle):
    """samples(n, **options) of the network with its schedule, from a bundle without constants."""
    bundle = make_bundle()

    def samples(n, **options):
        engine.networks["denoiser"] = toy.whole_denoiser
        with pipeline.open(bundle, engine="analytic") as opened:
            return opened.sample(n, output="float32", **options)

    return samples


@pytest.fixture
def split(engine, toy, make_bundle):
    """The bundle whose network takes constants, open; call it after `whole`."""

    def make(**changes):
        engine.networks["denoiser"] = toy.split_denoiser
        engine.calls.clear()
        return pipeline.open(make_bundle("constants", **changes), engine="analytic")

    return make


def test_programs_of_the_bundle_take_the_table(engine, whole, split):
    rng = np.random.default_rng()
    opened = split()
    assert opened.programs
    for program in opened.programs:
        for n, guidance in ((1, None), (33, 2.5), (2, 1.0)):
            options = {"seed": int(rng.integers(2**60)), "program": program, "guidance_scale": guidance}
            expected = whole(n, **options)
            engine.networks["denoiser"] = None  # was bound at its first call: only new batch sizes look it up
            opened = split()
            np.testing.assert_array_equal(opened.sample(n, output="float32", **options), expected)
            assert {name for name, _ in engine.calls} == {"denoiser"}


def test_other_timesteps_are_evaluated_once_each(engine, whole, split):
    expected = {solver: whole(3, seed=7, solver=solver, steps=STEPS) for solver in ("heun", "euler")}
    opened = split()
    first = opened.sample(3, seed=7, solver="heun", steps=STEPS, output="float32")
    np.testing.assert_array_equal(first, expected["heun"])
    schedule = [batch for name, batch in engine.calls if name == "schedule"]
    program = build(opened.manifest.schedule, "heun", STEPS).to_json()
    known = {float(np.float32(t)) for t in opened.manifest.components["schedule"].table.timesteps}
    new = {float(np.float32(row["timestep"])) for row in program["rows"]} - known
    assert schedule == [1] * len(new)  # at batch 1, Heun's second evaluations included
    assert 0 < len(new) < len(program["rows"])
    assert opened.stats["evaluations"] == len(program["rows"])  # of the network: its schedule is not counted
    engine.calls.clear()
    np.testing.assert_array_equal(opened.sample(3, seed=7, solver="heun", steps=STEPS, output="float32"), first)
    np.testing.assert_array_equal(opened.sample(3, seed=7, solver="euler", steps=STEPS, output="float32"), expected["euler"])
    assert "schedule" not in {name for name, _ in engine.calls}  # Euler's timesteps are Heun's


@pytest.mark.parametrize("solver", [None, "dpmpp_2m"])
def test_a_sample_is_the_same_in_every_batch(split, solver):
    opened = split()
    chosen = {} if solver is None else {"solver": solver, "steps": STEPS}
    together = opened.sample(32, seed=3, output="float32", **chosen)
    for first, n in ((0, 1), (5, 2), (9, 17), (31, 1)):
        np.testing.assert_array_equal(opened.sample(n, seed=3 + first, output="float32", **chosen), together[first : first + n])


def test_each_half_and_sample_gets_its_row(engine, toy, split):
    seen = []

    def network(sample, class_labels, constant_0, constant_1):
        seen.append((constant_0.copy(), constant_1.copy()))
        return toy.split_denoiser(sample, class_labels, constant_0, constant_1)

    opened = split()
    engine.networks["denoiser"] = network
    opened.sample(3, guidance_scale=2.0)
    rows = opened.manifest.programs[opened.manifest.default_program].to_json()["rows"]
    assert len(seen) == len(rows)
    for row, (constant_0, constant_1) in zip(rows, seen, strict=True):
        wanted = toy.schedule(np.full(6, row["timestep"], np.float32))
        np.testing.assert_array_equal(constant_0, wanted["constant_0"])
        np.testing.assert_array_equal(constant_1, wanted["constant_1"])


def test_a_schedule_that_is_not_finite_is_named_and_forgotten(engine, toy, split, whole):
    expected = whole(2, seed=1, solver="euler", steps=STEPS)
    opened = split()
    engine.networks["schedule"] = lambda timestep: {k: v + np.float32(np.nan) for k, v in toy.schedule(timestep).items()}
    with pytest.raises(AigcEdgeError, match=r"schedule gave a constant that is not finite for the timestep"):
        opened.sample(2, seed=1, solver="euler", steps=STEPS)
    engine.networks["schedule"] = toy.schedule
    opened = split()
    np.testing.assert_array_equal(opened.sample(2, seed=1, solver="euler", steps=STEPS, output="float32"), expected)


def test_a_failed_evaluation_is_asked_for_again(engine, toy, split, whole):
    expected = whole(1, seed=1, solver="euler", steps=STEPS)
    opened, left = split(), [2]

    def schedule(timestep):
        left[0] -= 1
        if left[0] == 0:
            raise AigcEdgeError("out of order")
        return toy.schedule(timestep)

    engine.networks["schedule"] = schedule
    with pytest.raises(AigcEdgeError, match="out of order"):
        opened.sample(1, seed=1, solver="euler", steps=STEPS)
    np.testing.assert_array_equal(opened.sample(1, seed=1, solver="euler", steps=STEPS, output="float32"), expected)


def test_more_constants_than_are_kept_are_evaluated_in_their_rows(engine, toy, tmp_path, whole):
    """4 M floats a timestep: 16 timesteps are what is kept."""
    made = toy.manifest("constants")
    wide = {"name": "constant_2", "role": "constant", "dtype": "float32", "shape": ["N", 1 << 22]}
    made["components"]["denoiser"]["inputs"].append(wide)
    made["components"]["denoiser"]["onnx_inputs"].append("constant_2")
    made["components"]["schedule"]["outputs"].append(wide)
    made["components"]["schedule"]["table"]["timesteps"] = []
    text = b"the analytic engine reads no file"
    write_members(tmp_path / "wide.aigc", made, {"net.onnx": text, "schedule.onnx": text, "schedule.table": b""})

    def network(sample, class_labels, constant_0, constant_1, constant_2):
        np.testing.assert_array_equal(constant_2[:, [0, -1]], np.stack([constant_0] * 2, 1))
        return toy.split_denoiser(sample, class_labels, constant_0, constant_1)

    expected = whole(1, seed=3, guidance_scale=1.0, solver="euler", steps=20)
    engine.networks["denoiser"] = network
    engine.networks["schedule"] = lambda timestep: toy.schedule(timestep) | {"constant_2": (timestep * timestep)[:, None]}
    with pipeline.open(tmp_path / "wide.aigc", engine="analytic") as opened:
        for evaluated in (20, 20):  # too many to be kept: the second time again
            engine.calls.clear()
            found = opened.sample(1, seed=3, guidance_scale=1.0, solver="euler", steps=20, output="float32")
            np.testing.assert_array_equal(found, expected)
            assert [name for name, _ in engine.calls].count("schedule") == evaluated


def test_an_engine_of_the_whole_network_gets_the_timestep(engine, toy, split, whole):
    expected = whole(2, seed=5, solver="euler", steps=STEPS)
    components = toy.manifest("constants")["components"]
    components["denoiser"]["onnx_inputs"] = ["sample", "timestep", "class_labels"]
    opened = split(components=components)
    engine.networks["denoiser"] = toy.whole_denoiser
    np.testing.assert_array_equal(opened.sample(2, seed=5, solver="euler", steps=STEPS, output="float32"), expected)
    assert {name for name, _ in engine.calls} == {"denoiser"}


def test_inputs_that_the_component_lacks_are_refused(toy, split):
    components = toy.manifest("constants")["components"]
    components["denoiser"]["onnx_inputs"] = ["sample", "constant_7"]
    with pytest.raises(BundleError, match=r"components\.denoiser\.onnx_inputs\[1\] is .constant_7., which is not among"):
        split(components=components)


def rewrite(path, change):
    value = json.loads((path / "manifest.json").read_text())
    change(value)
    text = json.dumps(value).encode()
    (path / "manifest.json").write_bytes(text)
    (path / "manifest.sha256").write_text(hashlib.sha256(text).hexdigest())


def _set(*path_and_value):
    *path, value = path_and_value

    def change(manifest):
        place = manifest["components"]
        for key in path[:-1]:
            place = place[key]
        if value is None:
            del place[path[-1]]
        else:
            place[path[-1]] = value

    return change


def _time(index, value):
    def change(manifest):
        manifest["components"]["schedule"]["table"]["timesteps"][index] = value

    return change


INPUT, OUTPUT = ("denoiser", "inputs", 4), ("schedule", "outputs", 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("schedule", None), "input constant_0 is a constant, float32, that components.schedule must give"),
        (_set("denoiser", None), "neither a denoiser nor a decoder"),
        (_set("schedule", "table", None), "table"),
        (_set("schedule", "table", "file", "ghost"), "names ghost, which is not among"),
        (_set("schedule", "table", "file", "net.onnx"), "net.onnx has 33 bytes, not .* rows of 3 float32"),
        (_set("schedule", "table", "timesteps", []), "bytes, not 0 rows of 3"),
        (_set("schedule", "table", "timesteps", [0.0, 1.0]), "not 2 rows of 3"),
        (_set("schedule", "table", "timesteps", "all"), "timesteps"),
        (_time(2, -1e30), r"timesteps\[2\] must be larger than the one before"),
        (_time(0, "x"), r"timesteps\[0\] must be a number"),
        (_time(-1, 1e39), "too large for float32"),
        (_set(*OUTPUT, "shape", ["N", 2, 1]), "input constant_1 is a constant"),
        (_set(*OUTPUT, "shape", ["N", 2, 1, 70000, 70000]), "more than 2\\^31 elements"),
        (_set(*OUTPUT, "name", "constant_0"), "two outputs with the name constant_0"),
        (_set(*OUTPUT, "role", "sample"), "output constant_1 must be a constant"),
        (_set(*OUTPUT, "dtype", "int64"), "output constant_1 must be a constant"),
        (_set("schedule", "outputs", []), "rows of 0 float32"),
        (_set("schedule", "inputs", []), "one input, a float32 timestep"),
        (_set("schedule", "inputs", 0, "shape", ["N", 2]), "one input, a float32 timestep"),
        (_set("schedule", "formats", {}), "must have one format"),
        (_set("schedule", "formats", "fp32", "file", "ghost"), "ghost, which is not among"),
        (_set(*INPUT, "shape", ["N", 3, 1, 1]), "input constant_1 is a constant"),
        (_set(*INPUT, "dtype", "int64"), "input constant_1 is a constant"),
        (_set(*INPUT, "name", "constant_2"), "input constant_2 is a constant"),
    ],
)
def test_a_schedule_that_cannot_be_right_is_refused(engine, make_bundle, change, message):
    bundle = make_bundle("constants")
    rewrite(bundle, change)
    with pytest.raises(AigcEdgeError, match=message):
        pipeline.open(bundle, engine="analytic")


@pytest.mark.parametrize("verify", ["used", "none"])
def test_a_changed_or_cut_table_is_refused(engine, toy, make_bundle, verify):
    bundle = make_bundle("constants")
    table = bytearray((bundle / "schedule.table").read_bytes())
    (bundle / "schedule.table").write_bytes(table[:-4])
    with pytest.raises(BundleError, match=r"schedule.table has .* bytes"):
        pipeline.open(bundle, engine="analytic", verify=verify)
    table[5] ^= 1
    (bundle / "schedule.table").write_bytes(table)
    if verify == "used":
        with pytest.raises(BundleError, match=r"schedule.table does not match its hash"):
            pipeline.open(bundle, engine="analytic", verify=verify)


def test_a_changed_schedule_is_refused_when_it_is_needed(engine, split):
    opened = split()
    file = opened.path / "schedule.onnx"
    file.write_bytes(file.read_bytes()[::-1])
    assert opened.sample(1).shape[0] == 1
    with pytest.raises(BundleError, match=r"schedule.onnx of .* does not match its hash"):
        opened.sample(1, solver="euler", steps=STEPS)
