"""Conditions in the native loop: against the NumPy executor, in any batch, with guidance both ways and as a number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aigc_edge import ops
from aigc_edge.diffusion import Program, build, reference, sample
from aigc_edge.errors import AigcEdgeError
from aigc_edge.runtime.request import SampleRequest


@pytest.fixture
def text(engine, toy, open_toy):
    """text(classes=…, threads=…, **changes) opens a bundle whose network takes the conditions "text" and "pooled"."""
    engine.networks |= {"denoiser": toy.text_denoiser, "text_encoder": toy.text_encoder}
    return lambda classes=0, **options: open_toy("text", classes, **options)


def conditions(rng, n):
    return {
        "text": rng.normal(size=(n, 4, 3)).astype(np.float32),
        "pooled": rng.normal(size=(n, 2)).astype(np.float32),
    }


def same(native, run):
    """The native loop errs at most twice as much as the NumPy executor in float32."""
    exact, plain = run(np.float64), run(np.float32)
    floor = 4 * np.finfo(np.float32).eps * np.abs(exact).max()
    assert np.abs(native - exact).max() <= 2 * np.abs(plain - exact).max() + floor


def latents_of(toy, seeds, dtype):
    latents = np.empty((len(seeds), int(np.prod(toy.SHAPE))), dtype)
    ops.randn.reference(seeds, 0, latents)
    return latents.reshape(-1, *toy.SHAPE)


@pytest.mark.parametrize("classes", [0, 4])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun", "euler_ancestral"])
def test_rows_equal_the_numpy_executor(text, toy, solver, classes):
    rng = np.random.default_rng()
    seeds, own, other = rng.integers(0, 2**64, 5, dtype=np.uint64), conditions(rng, 5), conditions(rng, 5)
    labels = {"classes": rng.integers(0, classes, 5)} if classes else {}
    pipeline = text(classes)
    for guidance in (1.0, 2.5):
        native = pipeline.sample(
            5, seeds=seeds, solver=solver, steps=5, guidance_scale=guidance, conditions=own,
            negative_conditions=None if guidance == 1 else other, output="float32", **labels,
        )  # fmt: skip
        program = build(toy.SCHEDULE, solver, 5, guidance_scale=guidance)

        def network(sample, timestep, labels, **given):
            return toy.text_denoiser(sample, timestep, class_labels=labels, **given)

        def run(dtype, program=program, network=network):
            return reference.run(program, network, latents_of(toy, seeds, dtype), seeds=seeds, dtype=dtype, conditions=own,
                                 negative_conditions=other, null_class=classes or None, **labels)  # fmt: skip

        same(native, run)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_sample_is_the_same_in_any_batch_and_with_any_threads(text, guidance):
    rng = np.random.default_rng()
    own, other = conditions(rng, 70), conditions(rng, 70)
    options = {"guidance_scale": guidance, "program": "euler_ancestral-6", "output": "float32"}
    whole = text().sample(70, seed=11, conditions=own, negative_conditions=other, **options)  # 70 > max_batch: several batches
    assert len(np.unique(whole.reshape(70, -1)[:, 0])) == 70
    threaded = text(threads=3)
    for first, count in ((0, 1), (5, 2), (31, 3), (64, 6)):
        part = [{name: value[first : first + count] for name, value in given.items()} for given in (own, other)]
        found = threaded.sample(count, seed=11 + first, conditions=part[0], negative_conditions=part[1], **options)
        np.testing.assert_array_equal(found, whole[first : first + count])


def test_one_row_stands_for_all(text):
    rng = np.random.default_rng()
    own, other = conditions(rng, 1), conditions(rng, 1)
    repeated = [{name: np.repeat(value, 35, axis=0) for name, value in given.items()} for given in (own, other)]
    pipeline = text()
    found = pipeline.sample(35, conditions=own, negative_conditions=other, output="float32")
    wanted = pipeline.sample(35, conditions=repeated[0], negative_conditions=repeated[1], output="float32")
    np.testing.assert_array_equal(found, wanted)


def test_the_network_gets_both_halves_in_the_same_buffers_in_every_row(text, engine, toy):
    rng, seen = np.random.default_rng(), []

    def network(sample, timestep, text, pooled):
        seen.append((text.copy(), pooled.copy(), text.ctypes.data, pooled.ctypes.data))
        return toy.text_denoiser(sample, timestep, text, pooled)

    engine.networks["denoiser"] = network
    own, other = conditions(rng, 3), conditions(rng, 3)
    text().sample(3, conditions=own, negative_conditions=other, guidance_scale=2.0)
    assert len(seen) == 6
    for given, pooled, *_ in seen:
        np.testing.assert_array_equal(given, np.concatenate([own["text"], other["text"]]))
        np.testing.assert_array_equal(pooled, np.concatenate([own["pooled"], other["pooled"]]))
    assert len({row[2:] for row in seen}) == 1


def with_scale(toy, classes=0):
    """The components of a bundle whose network takes the guidance scale as a number."""
    components = toy.manifest("text", classes)["components"]
    components["denoiser"]["inputs"].append({"name": "scale", "role": "guidance", "dtype": "float32", "shape": ["N"]})
    return components


def scaled(toy):
    def network(sample, timestep, text, pooled, scale, class_labels=None):
        made = toy.text_denoiser(sample, timestep, text, pooled, class_labels)
        return (made * (1 + 0.1 * scale[:, None, None, None])).astype(sample.dtype)

    return network


@pytest.mark.parametrize("classes", [0, 4])
def test_guidance_as_a_number_doubles_nothing(text, engine, toy, classes):
    rng, network, seen = np.random.default_rng(), scaled(toy), []
    value = build(toy.SCHEDULE, "dpmpp_2m", 4, guidance_scale=3.5).to_json() | {"name": "interval"}
    for index, row in enumerate(value["rows"]):
        row["guidance"] = float(index % 2)
    pipeline = text(classes, components=with_scale(toy, classes), programs={"interval": value}, default_program="interval")
    engine.networks["denoiser"] = lambda **inputs: seen.append(inputs["scale"].copy()) or network(**inputs)
    own, seeds = conditions(rng, 3), rng.integers(0, 2**64, 3, dtype=np.uint64)
    labels = {"classes": np.array([1, 2, 0])} if classes else {}
    for scale in (None, 1.0, 7.25):
        seen.clear()
        native = pipeline.sample(3, seeds=seeds, conditions=own, guidance_scale=scale, output="float32", **labels)
        weights = [1.0, 3.5 if scale is None else scale] * 2
        np.testing.assert_array_equal(seen, np.repeat(np.array(weights, np.float32)[:, None], 3, 1))

        def run(dtype, scale=scale):
            call = lambda x, t, labels, **given: network(x, t, class_labels=labels, **given)  # noqa: E731
            return reference.run(Program.from_json(value), call, latents_of(toy, seeds, dtype), seeds=seeds, dtype=dtype,
                                 conditions=own, guidance_scale=scale, guidance_input="scale", **labels)  # fmt: skip

        same(native, run)
    with pytest.raises(AigcEdgeError, match="as a number, so that nothing negative has an effect: leave negative_prompt out"):
        pipeline.sample(3, conditions=own, negative_prompt="a cat")
    if classes:
        with pytest.raises(AigcEdgeError, match="as a number, so that nothing negative has an effect"):
            pipeline.sample(3, conditions=own, negative_classes=1)


def test_a_network_that_is_told_the_scale_in_python(text, engine, toy):
    rng, program = np.random.default_rng(), build(toy.SCHEDULE, "euler", 4, guidance_scale=1.0)
    pipeline = text(components=with_scale(toy))
    engine.networks["denoiser"] = scaled(toy)
    latents, own = rng.normal(size=(2, *toy.SHAPE)).astype(np.float32), conditions(rng, 2)
    told = own | {"scale": np.array([3.5], np.float32)}
    found = sample(program, pipeline.network, latents, conditions=told)
    native = pipeline.sample(2, latents=latents, conditions=own, solver="euler", steps=4, guidance_scale=3.5, output="float32")
    np.testing.assert_array_equal(found, native)


def test_conditions_and_constants_go_together(engine, toy, open_toy):
    rng, made = np.random.default_rng(), toy.manifest("constants")
    text_input = {"name": "text", "role": "condition", "dtype": "float32", "shape": ["N", 5]}
    made["components"]["denoiser"]["inputs"].append(text_input)
    made["components"]["denoiser"]["onnx_inputs"].append("text")

    def network(sample, class_labels, constant_0, constant_1, text):
        return toy.split_denoiser(sample, class_labels, constant_0, constant_1) + text.sum(1)[:, None, None, None]

    engine.networks["denoiser"] = network
    own, other = ({"text": rng.normal(size=(4, 5)).astype(np.float32)} for _ in range(2))
    pipeline, seeds = open_toy("constants", components=made["components"]), np.arange(4, dtype=np.uint64)
    classes = np.array([0, 1, 2, 3])
    native = pipeline.sample(4, classes=classes, conditions=own, negative_conditions=other, output="float32")

    def run(dtype):
        def whole(sample, timestep, labels, text):
            return network(sample, labels, **toy.schedule(timestep), text=text)

        program = Program.from_json(made["programs"][made["default_program"]])
        return reference.run(program, whole, latents_of(toy, seeds, dtype), classes=classes, null_class=toy.CLASSES, dtype=dtype,
                             seeds=seeds, conditions=own, negative_conditions=other)  # fmt: skip

    same(native, run)


def request(**conditions: Any) -> SampleRequest:
    """What the native call takes, for the messages of the C API itself."""
    return SampleRequest(count=2, noise=None, output="float32", **conditions)


@pytest.mark.parametrize(
    ("own", "other", "message"),
    [
        ({}, {}, "the condition text is missing: this bundle takes text, pooled, give all of them"),
        ({"text": (2, 4, 3)}, {}, "the condition pooled is missing"),
        ({"text": (2, 4, 3), "pooled": (2, 2)}, {}, "guidance needs negative conditions, to lead away from them: give them, or"),
        ({"text": (2, 4, 3), "pooled": (2, 2)}, {"text": (2, 4, 3)}, "the negative condition pooled is missing"),
        (
            {"text": (2, 4, 2), "pooled": (2, 2)},
            {},
            r"condition text has the shape \[2, 4, 2\]: it must have \[2, 4, 3\], or 1 in",
        ),
        ({"text": (3, 4, 3), "pooled": (2, 2)}, {}, r"text has the shape \[3, 4, 3\]"),
        ({"text": (2, 4, 3, 1), "pooled": (2, 2)}, {}, r"text has the shape \[2, 4, 3, 1\]"),
        (
            {"text": (2, 4, 3), "pooled": (2, 2), "time": (2,)},
            {},
            "the condition time is unknown: this bundle takes text, pooled",
        ),
    ],
)
def test_what_does_not_fit_is_said_by_the_native_call(text, own, other, message):
    handle = text()._handle
    given = [{name: np.zeros(shape, np.float32) for name, shape in shapes.items()} for shapes in (own, other)]
    with pytest.raises(AigcEdgeError, match=message):
        handle.sample(request(conditions=given[0], negative_conditions=given[1]), 30)


def test_what_takes_no_conditions_says_so(open_toy):
    handle = open_toy()._handle
    for name in ("conditions", "negative_conditions"):
        with pytest.raises(AigcEdgeError, match="condition text was given: this bundle takes none, leave it out"):
            handle.sample(request(**{name: {"text": np.zeros((2, 3), np.float32)}}), 30)


def test_a_bundle_s_network_takes_conditions_in_python(text, toy):
    rng = np.random.default_rng()
    pipeline, program = text(), build(toy.SCHEDULE, "dpmpp_2m", 5, guidance_scale=2.0)
    latents, own, other = rng.normal(size=(2, *toy.SHAPE)).astype(np.float32), conditions(rng, 2), conditions(rng, 2)
    found = sample(program, pipeline.network, latents, conditions=own, negative=other)
    native = pipeline.sample(
        2, latents=latents, conditions=own, negative_conditions=other, solver="dpmpp_2m", steps=5, output="float32"
    )
    np.testing.assert_array_equal(found, native)
