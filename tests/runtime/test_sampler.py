"""The native executor against the NumPy one, and what it promises: independence of the batch, clear failures, no state left."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from aigc_edge import ops
from aigc_edge.diffusion import SOLVERS, Program, build, from_diffusers, reference, sample
from aigc_edge.errors import AigcEdgeError


def run_reference(toy, program, seeds, classes, guidance_scale, dtype):
    seeds = np.asarray(seeds, dtype=np.uint64)
    latents = np.empty((len(seeds), int(np.prod(toy.SHAPE))), dtype)
    ops.randn.reference(seeds, 0, latents)
    conditions = {"classes": classes, "null_class": toy.CLASSES, "guidance_scale": guidance_scale}
    return reference.run(program, toy.denoiser, latents.reshape(-1, *toy.SHAPE), seeds=seeds, dtype=dtype, **conditions)


@pytest.mark.parametrize("solver", SOLVERS.names())
@pytest.mark.parametrize("guidance_scale", [1.0, 2.5])
def test_native_rows_equal_the_numpy_executor(open_toy, toy, solver, guidance_scale):
    rng = np.random.default_rng()
    seeds = rng.integers(0, 2**64, 5, dtype=np.uint64)
    classes = rng.integers(0, toy.CLASSES, 5)
    program = build(toy.SCHEDULE, solver, 7)
    exact = run_reference(toy, program, seeds, classes, guidance_scale, np.float64)
    plain = run_reference(toy, program, seeds, classes, guidance_scale, np.float32)
    native = open_toy().sample(
        5, seeds=seeds, classes=classes, solver=solver, steps=7, guidance_scale=guidance_scale, output="float32"
    )
    floor = 4 * np.finfo(np.float32).eps * np.abs(exact).max()
    assert np.abs(native - exact).max() <= 2 * np.abs(plain - exact).max() + floor


def test_an_arbitrary_table_equals_the_numpy_executor(open_toy, toy):
    # Every feature of a row at once: many slots, noise before and after, clipping, guidance in some rows only.
    rng = np.random.default_rng()
    rows = [
        {
            "sigma": 1.0, "timestep": float(rng.normal()), "c_in": 0.7, "c_skip": 0.4, "c_out": -0.8, "guidance": g,
            "clip": [-0.6, 0.7] if g else None,
            "before": rng.normal(size=(5, 5)).tolist(), "before_noise": rng.normal(size=5).tolist(),
            "after": (rng.normal(size=(5, 6)) / 3).tolist(), "after_noise": rng.normal(size=5).tolist(),
        }
        for g in (1.0, 0.0, 0.5)
    ]  # fmt: skip
    table = {"version": 1, "name": "wild", "slots": 5, "init_scale": 1.5, "guidance_scale": 3.0, "rows": rows}
    program = Program.from_json(table)
    pipeline = open_toy(programs={"wild": program.to_json()}, default_program="wild")
    seeds, classes = [3, 2**63], [1, 2]
    exact = run_reference(toy, program, seeds, classes, 3.0, np.float64)
    plain = run_reference(toy, program, seeds, classes, 3.0, np.float32)
    native = pipeline.sample(2, seeds=seeds, classes=classes, output="float32")
    floor = 4 * np.finfo(np.float32).eps * np.abs(exact).max()
    assert np.abs(native - exact).max() <= 2 * np.abs(plain - exact).max() + floor


@pytest.mark.parametrize("program", ["dpmpp_2m-6", "euler_ancestral-6"])
def test_a_sample_is_the_same_in_any_batch_and_with_any_threads(open_toy, program):
    whole = open_toy().sample(70, seed=11, program=program, output="float32")  # 70 > max_batch: several batches
    assert np.isfinite(whole).all()
    assert len(np.unique(whole.reshape(70, -1)[:, 0])) == 70
    threaded = open_toy(threads=3)
    for first, count in ((0, 1), (5, 2), (31, 3), (64, 6)):
        part = threaded.sample(count, seed=11 + first, program=program, output="float32")
        np.testing.assert_array_equal(part, whole[first : first + count])


def test_the_batch_is_doubled_only_where_guidance_acts(open_toy, engine, toy):
    rows = build(toy.SCHEDULE, "euler", 4).to_json()
    for index, row in enumerate(rows["rows"]):
        row["guidance"] = float(index % 2)
    pipeline = open_toy(programs={"interval": rows | {"name": "interval"}}, default_program="interval")
    pipeline.sample(3, guidance_scale=2.0)
    assert [batch for _, batch in engine.calls] == [3, 6, 3, 6]
    engine.calls.clear()
    pipeline.sample(3, guidance_scale=1.0)
    assert [batch for _, batch in engine.calls] == [3, 3, 3, 3]
    assert pipeline.stats["evaluations"] == 4
    assert 0 < pipeline.stats["network_seconds"] <= pipeline.stats["total_seconds"]


def test_an_unconditional_bundle_is_never_doubled(open_toy, engine):
    open_toy(classes=0).sample(2, guidance_scale=5.0)
    assert {batch for _, batch in engine.calls} == {2}


def test_a_generator_is_its_decoder_on_scaled_latents(open_toy, toy):
    pipeline = open_toy("gan")
    latents = np.random.default_rng().standard_normal((3, 6), dtype=np.float32)
    images = pipeline.sample(3, latents=latents, classes=[0, 3, 1], output="float32")
    np.testing.assert_array_equal(images, toy.decoder(np.float32(0.5) * latents, np.array([0, 3, 1])))
    drawn = np.empty((1, 6))
    ops.randn.reference(np.array([7], dtype=np.uint64), 0, drawn)
    image = pipeline.sample(1, seed=7, classes=2, output="float32")
    np.testing.assert_allclose(image, toy.decoder(0.5 * drawn, np.array([2])), atol=1e-5)


def test_bytes_are_the_rounded_floats_channels_last(open_toy, toy):
    pipeline = open_toy()
    floats = pipeline.sample(4, seed=1, output="float32")
    expected = np.rint(np.clip((floats.astype(np.float64) + 1) / 2 * 255, 0, 255)).transpose(0, 2, 3, 1)
    given = pipeline.sample(4, seed=1)
    assert given.dtype == np.uint8
    assert given.shape == (4, toy.SHAPE[1], toy.SHAPE[2], toy.SHAPE[0])
    assert np.abs(given - expected).max() <= 1
    assert (given == expected).mean() > 0.95


def test_classes_are_drawn_evenly_from_the_seeds(open_toy, engine, toy):
    seen = []
    engine.networks["denoiser"] = lambda sample, timestep, class_labels: (
        seen.append(class_labels.copy()) or toy.denoiser(sample, timestep)
    )
    pipeline = open_toy()
    pipeline.sample(400, seed=5, solver="euler", steps=1, guidance_scale=1.0)
    drawn = np.concatenate(seen)
    counts = np.bincount(drawn, minlength=toy.CLASSES)
    assert len(counts) == toy.CLASSES
    assert counts.min() > 60
    seen.clear()
    pipeline.sample(1, seed=105, solver="euler", steps=1, guidance_scale=1.0)
    assert seen[0][0] == drawn[100]


def test_class_minus_one_is_the_null_class(open_toy, engine, toy):
    seen = []
    engine.networks["denoiser"] = lambda sample, timestep, class_labels: (
        seen.append(class_labels.tolist()) or toy.denoiser(sample, timestep)
    )
    open_toy().sample(2, classes=[-1, 3], solver="euler", steps=1)
    assert seen == [[toy.CLASSES, 3, toy.CLASSES, toy.CLASSES]]


def test_a_value_that_is_not_finite_stops_with_the_row_and_the_sample(open_toy, engine, toy):
    def broken(sample, timestep, class_labels):
        out = toy.denoiser(sample, timestep, class_labels)
        if len(engine.calls) == 3:
            out[1, 0, 0, 0] = np.nan
        return out

    engine.networks["denoiser"] = broken
    pipeline = open_toy()
    with pytest.raises(AigcEdgeError, match=r"denoiser.*not finite in row 2 of 6 for sample 1"):
        pipeline.sample(3, seed=0)
    engine.networks["denoiser"] = toy.denoiser
    fresh = open_toy().sample(3, seed=0)
    np.testing.assert_array_equal(open_toy().sample(3, seed=0), fresh)


def test_a_decoder_that_is_not_finite_is_named(open_toy, engine, toy):
    engine.networks["decoder"] = lambda sample, class_labels: np.where(
        class_labels[:, None, None, None] == 1, np.inf, toy.decoder(sample)
    )
    with pytest.raises(AigcEdgeError, match=r"decoder.*not finite.*sample 2"):
        open_toy("gan").sample(3, classes=[0, 2, 1])


def test_a_handle_can_be_used_after_a_failure(open_toy):
    pipeline, broken = open_toy(), [False]
    bound = pipeline._networks.engines["denoiser"].bind

    def bind(inputs, outputs):
        run = bound(inputs, outputs)

        def call():
            if broken[0]:
                raise KeyboardInterrupt
            run()

        return call

    pipeline._networks.engines["denoiser"].bind = bind
    expected = pipeline.sample(2, seed=4)
    broken[0] = True
    with pytest.raises(KeyboardInterrupt):
        pipeline.sample(2)
    broken[0] = False
    np.testing.assert_array_equal(pipeline.sample(2, seed=4), expected)


def test_progress_is_told_row_by_row_and_may_stop(open_toy):
    rows = []
    pipeline = open_toy()
    pipeline.sample(1, progress=lambda row, count: rows.append((row, count)))
    assert rows == [(i, 6) for i in range(6)]

    def stop(row, count):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match=r"enough"):
        pipeline.sample(1, progress=stop)
    assert pipeline.sample(1).shape[0] == 1


def test_threads_may_share_a_pipeline(open_toy):
    pipeline = open_toy()
    expected = {seed: pipeline.sample(2, seed=seed) for seed in range(8)}
    got = {}

    def work(seed):
        got[seed] = pipeline.sample(2, seed=seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in expected]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for seed, images in expected.items():
        np.testing.assert_array_equal(got[seed], images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n is 0.*from 1"),
        ({"n": -3}, "n is -3"),
        ({"n": 2.5}, "n is 2.5"),
        ({"seed": -1}, "seed is -1.*from 0"),
        ({"n": 2, "seeds": [1]}, "seeds holds 1 values.*2 samples"),
        ({"classes": 4}, "class 4 is out of range.*0 to 3, and -1 for none"),
        ({"n": 2, "classes": [0, 9]}, "class 9 is out of range"),
        ({"steps": 0}, "steps.*0"),
        ({"solver": "magic"}, "magic.*euler"),
        ({"program": "nothing"}, "no program nothing: choose one of dpmpp_2m-6"),
        ({"program": "heun-6", "steps": 5}, "one or the other"),
        ({"guidance_scale": float("nan")}, "guidance_scale.*finite"),
        ({"latents": np.zeros((1, 3))}, r"latents.*\[1, 2, 3, 5\]"),
        ({"output": "jpeg"}, "output is 'jpeg'"),
    ],
)
def test_what_is_not_allowed_is_said(open_toy, arguments, message):
    with pytest.raises(AigcEdgeError, match=message):
        open_toy().sample(**{"n": 1} | arguments)


def test_what_a_bundle_cannot_do_is_said(open_toy):
    with pytest.raises(AigcEdgeError, match=r"unconditional"):
        open_toy(classes=0).sample(1, classes=1)
    with pytest.raises(AigcEdgeError, match=r"one evaluation"):
        open_toy("gan").sample(1, steps=5)
    with pytest.raises(AigcEdgeError, match=r"class -1 is out of range.*0 to 3"):
        open_toy("gan").sample(1, classes=-1)
    closed = open_toy()
    closed.close()
    with pytest.raises(AigcEdgeError, match=r"closed"):
        closed.sample(1)


def test_ten_thousand_steps_end_in_a_result(open_toy):
    assert np.isfinite(open_toy().sample(1, steps=10_000, solver="euler", output="float32")).all()


def test_gigantic_guidance_ends_in_a_sentence(open_toy, engine, toy):
    engine.networks["denoiser"] = lambda sample, timestep, class_labels: 100 * toy.denoiser(sample, timestep, class_labels)
    with pytest.raises(AigcEdgeError, match=r"not finite in row"):
        open_toy().sample(1, classes=1, guidance_scale=3e38)


def test_r_itself_and_dynamic_thresholds_equal_the_numpy_executor(open_toy, toy):
    rng = np.random.default_rng()
    rows = [
        {"sigma": 1.0, "timestep": 0.3, "c_in": 0.7, "c_skip": 0.9, "c_out": -0.8, "threshold": [q, 1.7],
         "after": (rng.normal(size=(2, 3)) / 2).tolist(), "after_output": rng.normal(size=2).tolist()}
        for q in (0.0, 0.5, 0.9, 1.0)
    ]  # fmt: skip
    table = {"version": 1, "name": "wild", "slots": 2, "init_scale": 3.5, "guidance_scale": 1.0, "rows": rows}
    program = Program.from_json(table)
    seeds, classes = [3, 2**63], [1, 2]
    exact, plain = (run_reference(toy, program, seeds, classes, 1.0, dtype) for dtype in (np.float64, np.float32))
    native = open_toy(programs={"wild": program.to_json()}, default_program="wild").sample(
        2, seeds=seeds, classes=classes, output="float32"
    )
    floor = 4 * np.finfo(np.float32).eps * np.abs(exact).max()
    assert np.abs(native - exact).max() <= 2 * np.abs(plain - exact).max() + floor


@pytest.mark.parametrize(
    "config", [{}, {"clip_sample": False, "thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": 2.5}]
)
def test_an_imported_program_that_clips_equals_the_numpy_executor(open_toy, toy, config):
    diffusers = pytest.importorskip("diffusers")
    program = from_diffusers(diffusers.DDIMScheduler(**config), 6, timestep_scale=1e-3)
    assert all(row.after_output is not None for row in program.rows[:-1])
    rng, name = np.random.default_rng(), program.name
    latents, known, mask = (rng.normal(size=(2, *toy.SHAPE)).astype(np.float32) for _ in range(3))
    mask = (mask[:, 0] > 0).astype(np.float32)
    native = open_toy(programs={name: program.to_json()}, default_program=name)
    for given in ({}, {"image": known, "mask": mask}):
        blend = {"known": known, "mask": np.broadcast_to(mask[:, None], known.shape)} if given else {}
        found = native.sample(2, classes=[1, 2], latents=latents, output="float32", **given)
        options = {"classes": np.array([1, 2]), "null_class": toy.CLASSES, **blend}
        exact, plain = (
            reference.run(program, toy.denoiser, latents, dtype=dtype, **options) for dtype in (np.float64, np.float32)
        )
        floor = 4 * np.finfo(np.float32).eps * np.abs(exact).max()
        assert np.abs(found - exact).max() <= 2 * np.abs(plain - exact).max() + floor


@pytest.mark.parametrize("masked", [False, True])
def test_image_to_image_starts_from_the_noised_image(open_toy, toy, masked):
    rng = np.random.default_rng()
    image = rng.integers(0, 256, (2, toy.SHAPE[1], toy.SHAPE[2], toy.SHAPE[0]), dtype=np.uint8)
    mask = rng.integers(0, 2, toy.SHAPE[1:]) if masked else None
    pipeline = open_toy()
    found = pipeline.sample(2, seed=5, classes=1, image=image, strength=0.5, mask=mask, solver="ddim", steps=8, output="float32")
    program = build(toy.SCHEDULE, "ddim", 8, guidance_scale=2.0, strength=0.5)
    known = image.transpose(0, 3, 1, 2) / 127.5 - 1
    noise = np.empty((2, int(np.prod(toy.SHAPE))))
    ops.randn.reference(np.array([5, 6], np.uint64), 0, noise)
    noise = noise.reshape(known.shape)
    blend = {"mask": np.broadcast_to(mask, known.shape), "known": known, "known_noise": noise} if masked else {}
    expected = reference.run(
        program, toy.denoiser, program.add_noise(known, noise), classes=np.array([1, 1]), null_class=toy.CLASSES, **blend
    )
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert pipeline.stats["evaluations"] == 4


def test_noise_of_other_tools_has_its_own_stream_a_sample(open_toy, toy):
    pipeline = open_toy()
    whole = pipeline.sample(4, seed=9, noise="numpy", program="euler_ancestral-6", output="float32")
    alone = pipeline.sample(1, seed=11, noise="numpy", program="euler_ancestral-6", output="float32")
    np.testing.assert_array_equal(whole[2:3], alone)
    assert np.abs(whole - pipeline.sample(4, seed=9, program="euler_ancestral-6", output="float32")).max() > 0.01


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"noise": "dice"}, "noise is 'dice': it must be philox, numpy"),
        (
            {"noise": np.zeros((3, 1, 2, 3, 5), np.float32)},
            "noise has the shape [3, 1, 2, 3, 5]: this program adds noise of [0",
        ),
        ({"strength": 0.5}, "without an image"),
        ({"image": np.zeros((1, 2, 3, 5), np.float32)}, "an image was given alone"),
        ({"image": np.zeros((1, 2, 3), np.float32), "strength": 0.5}, "the image has the shape [1, 2, 3]"),
        ({"image": np.zeros((1, 2, 3, 5), np.float32), "mask": np.ones((4, 4))}, "the mask has the shape [4, 4]"),
        ({"guidance_rescale": 2.0}, "the guidance rescale is 2: 0 to 1 is allowed"),
        ({"negative_classes": 4}, "negative class 4 is out of range"),
        ({"program": "nothing"}, "has no program nothing: choose one of dpmpp_2m-6"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(open_toy, given, sentence):
    with pytest.raises(AigcEdgeError) as raised:
        open_toy().sample(1, **given)
    assert sentence in str(raised.value)


def test_a_bundle_s_network_stands_for_one_in_python(open_toy, toy):
    pipeline = open_toy()
    program, labels = build(toy.SCHEDULE, "dpmpp_2m", 5, guidance_scale=2.0), np.array([1, 3])
    latents = np.random.default_rng().normal(size=(2, *toy.SHAPE)).astype(np.float32)
    none = np.full(2, toy.CLASSES)
    found = sample(program, pipeline.network, latents, conditions={"class_labels": labels}, negative={"class_labels": none})
    native = pipeline.sample(2, latents=latents, classes=labels, solver="dpmpp_2m", steps=5, output="float32")
    np.testing.assert_array_equal(found, native)
    with pytest.raises(AigcEdgeError, match="it has no denoiser"):
        open_toy("gan").network(latents, 0.5)
