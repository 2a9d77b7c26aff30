"""The NumPy executor does what the rows say, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigc_edge.diffusion import Program, Row, build
from aigc_edge.diffusion.reference import run
from aigc_edge.errors import ProgramError

SHAPE = (3, 2, 4, 5)


def random_program(
    rng: np.random.Generator, slots: int, count: int, clip: tuple[float, float] | None = None, noise: float = 1.0
) -> Program:
    """A table of random numbers, rows with and without a `before`."""
    made = []
    for index in range(count):
        before = index % 2 == 0
        made.append(
            Row(
                timestep=float(rng.normal()),
                c_in=float(rng.normal()),
                c_skip=float(rng.normal()),
                c_out=float(rng.normal()),
                guidance=float(rng.uniform()),
                clip=clip,
                before=tuple(map(tuple, rng.normal(size=(slots, slots)).tolist())) if before else None,
                before_noise=tuple((noise * rng.normal(size=slots)).tolist()) if before else None,
                after=tuple(map(tuple, (rng.normal(size=(slots, slots + 1)) / slots).tolist())),
                after_noise=tuple((noise * rng.normal(size=slots)).tolist()),
            )
        )
    return Program(name="random", slots=slots, init_scale=float(rng.normal()), guidance_scale=1.0, rows=tuple(made))


def wave(sample: np.ndarray, timestep: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
    each = (slice(None),) + (None,) * (sample.ndim - 1)
    label = 0.0 if classes is None else classes[each]
    return np.tanh(sample + 0.3 * np.roll(sample, 1, -1)) + 0.2 * timestep[each] + 0.1 * label


def table_of_noise(rng: np.random.Generator) -> Callable[[np.ndarray, int, tuple[int, ...]], np.ndarray]:
    drawn: dict[int, np.ndarray] = {}
    return lambda seeds, index, shape: drawn.setdefault(index, rng.normal(size=shape))


@pytest.mark.parametrize("slots", [1, 2, 5, 8])
@pytest.mark.parametrize("clip", [None, (-0.3, 0.4)])
def test_element_by_element(rng: np.random.Generator, slots: int, clip: tuple[float, float] | None) -> None:
    """The definition of a row (DESIGN 4) written out with loops over slots and elements."""
    program = random_program(rng, slots, 4, clip)
    latents, draw = rng.normal(size=(2, 3)), table_of_noise(rng)
    wanted = np.empty((2, 3))
    state = [[[0.0] * 3 for _ in range(2)] for _ in range(slots)]
    state[0] = (program.init_scale * latents).tolist()
    for r, row in enumerate(program.rows):
        if row.before and row.before_noise:
            eps = draw(np.zeros(2), 2 * r + 1, (2, 3))
            state = [
                [
                    [
                        sum(b * state[j][n][e] for j, b in enumerate(row.before[i])) + row.before_noise[i] * eps[n, e]
                        for e in range(3)
                    ]
                    for n in range(2)
                ]
                for i in range(slots)
            ]
        output = wave(row.c_in * np.array(state[0]), np.full(2, row.timestep), None)
        eps = draw(np.zeros(2), 2 * r + 2, (2, 3))
        assert row.after_noise
        after: list[list[list[float]]] = [[[0.0] * 3 for _ in range(2)] for _ in range(slots)]
        for n in range(2):
            for e in range(3):
                denoised = row.c_skip * state[0][n][e] + row.c_out * output[n, e]
                if clip:
                    denoised = min(max(denoised, clip[0]), clip[1])
                inputs = [state[j][n][e] for j in range(slots)] + [denoised]
                for i in range(slots):
                    after[i][n][e] = (
                        sum(a * v for a, v in zip(row.after[i], inputs, strict=True)) + row.after_noise[i] * eps[n, e]
                    )
        state = after
    wanted = np.array(state[0])
    assert np.allclose(run(program, wave, latents, draw=draw), wanted, rtol=1e-11, atol=1e-11)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 8), st.integers(1, 6), st.integers(0, 2**32 - 1), st.floats(-3, 3), st.floats(-3, 3))
def test_linear_network_makes_a_linear_executor(slots: int, count: int, seed: int, a: float, b: float) -> None:
    """Latents and noise enter linearly: any table, any number of slots."""
    rng = np.random.default_rng(seed)
    program = random_program(rng, slots, count)
    mix = rng.normal(size=(5, 5)) / 3

    def network(sample: np.ndarray, timestep: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
        return sample @ mix * np.cos(timestep[0])

    first, second = rng.normal(size=(2, 3, 5))
    noise_1, noise_2 = table_of_noise(rng), table_of_noise(rng)

    def both(seeds: np.ndarray, index: int, shape: tuple[int, ...]) -> np.ndarray:
        return a * noise_1(seeds, index, shape) + b * noise_2(seeds, index, shape)

    parts = a * run(program, network, first, draw=noise_1) + b * run(program, network, second, draw=noise_2)
    whole = run(program, network, a * first + b * second, draw=both)
    size = (
        1 + np.abs(run(program, network, first, draw=noise_1)).max() + np.abs(run(program, network, second, draw=noise_2)).max()
    )
    assert np.abs(whole - parts).max() < 1e-11 * size


def test_draws_are_numbered_and_only_where_needed(rng: np.random.Generator) -> None:
    seeds = np.array([7, 2**64 - 1, 0], np.uint64)
    calls: list[tuple[list[int], int, tuple[int, ...]]] = []

    def draw(given: np.ndarray, index: int, shape: tuple[int, ...]) -> np.ndarray:
        assert given.dtype == np.uint64
        calls.append((given.tolist(), index, shape))
        return rng.normal(size=shape)

    schedule = {"prediction": "edm", "sigma_min": 0.1, "sigma_max": 10.0}
    run(build(schedule, "euler_ancestral", 4), wave, rng.normal(size=SHAPE), seeds=seeds, draw=draw)
    assert calls == [(seeds.tolist(), index, SHAPE) for index in (2, 4, 6)]
    calls.clear()
    run(build(schedule, "heun", 3, s_churn=1.0), wave, rng.normal(size=SHAPE), draw=draw)
    assert [(given, index) for given, index, _ in calls] == [([0, 1, 2], index) for index in (1, 5, 9)]
    calls.clear()
    run(build(schedule, "dpmpp_2m", 4), wave, rng.normal(size=SHAPE), draw=draw)
    assert not calls


def test_noise_is_the_library_s_unless_given(rng: np.random.Generator) -> None:
    """Each sample's noise comes from its own seed, so a sample does not depend on the batch that it is in."""
    randn = pytest.importorskip("aigc_edge.ops").randn
    program = build({"prediction": "edm", "sigma_min": 0.1, "sigma_max": 10.0}, "euler_ancestral", 4)
    latents, seeds = rng.normal(size=SHAPE), rng.integers(0, 2**64, 3, np.uint64)

    def draw(given: np.ndarray, index: int, shape: tuple[int, ...]) -> np.ndarray:
        out = np.empty((len(given), 40))
        randn.reference(given, index, out)
        return out.reshape(shape)

    whole = run(program, wave, latents, seeds=seeds)
    assert np.array_equal(whole, run(program, wave, latents, seeds=seeds, draw=draw))
    assert np.allclose(whole[1:2], run(program, wave, latents[1:2], seeds=seeds[1:2]), rtol=1e-12, atol=1e-12)
    assert np.abs(whole - run(program, wave, latents, seeds=seeds + np.uint64(1))).min() > 0


def test_guidance_doubles_the_batch_only_where_it_acts(rng: np.random.Generator) -> None:
    program = build(
        {"prediction": "edm", "sigma_min": 0.1, "sigma_max": 10.0}, "euler", 6, guidance_scale=3.0, guidance_interval=(0.5, 5.0)
    )
    classes, seen = np.array([4, 0, 2]), []

    def network(sample: np.ndarray, timestep: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        assert labels is not None
        assert labels.dtype == np.int64
        assert len(sample) == len(timestep) == len(labels)
        seen.append(labels.tolist())
        if len(labels) == 6:
            assert np.array_equal(sample[:3], sample[3:])
        return wave(sample, timestep, labels)

    run(program, network, rng.normal(size=SHAPE), classes=classes, null_class=10)
    inside = [0.5 < row.sigma <= 5.0 for row in program.rows]
    assert any(inside)
    assert not all(inside)
    assert seen == [[4, 0, 2, 10, 10, 10] if guided else [4, 0, 2] for guided in inside]
    seen.clear()
    run(program, network, rng.normal(size=SHAPE), classes=classes, null_class=10, guidance_scale=1.0)
    assert seen == [[4, 0, 2]] * 6


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 7.5, -1.0])
def test_guidance_mixes_conditional_and_unconditional(rng: np.random.Generator, scale: float) -> None:
    """F = F_uncond + w (F_cond - F_uncond): equal to running a network that was mixed by hand."""
    program = build({"prediction": "flow"}, "dpmpp_2m", 5, guidance_scale=scale)
    classes, latents = np.array([1, 5, 3]), rng.normal(size=SHAPE)

    def mixed(sample: np.ndarray, timestep: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        conditional, unconditional = wave(sample, timestep, labels), wave(sample, timestep, np.full(3, 10))
        return (1 - scale) * unconditional + scale * conditional

    wanted = run(program.with_guidance(1.0), mixed, latents, classes=classes)
    assert np.allclose(run(program, wave, latents, classes=classes, null_class=10), wanted, rtol=1e-12, atol=1e-12)
    partly = Program.from_json(program.to_json() | {"rows": [row | {"guidance": 0.25} for row in program.to_json()["rows"]]})
    weight = 1 + 0.25 * (scale - 1)
    assert np.allclose(
        run(partly, wave, latents, classes=classes, null_class=10),
        run(program, wave, latents, classes=classes, null_class=10, guidance_scale=weight),
        rtol=1e-12,
        atol=1e-12,
    )


def test_float32_stays_float32_and_close(rng: np.random.Generator) -> None:
    program = build({"prediction": "edm"}, "heun", 8)
    latents = rng.normal(size=SHAPE)
    single = run(program, wave, latents, dtype=np.float32)
    assert single.dtype == np.float32
    assert np.allclose(single, run(program, wave, latents), rtol=1e-3, atol=1e-3)
    assert run(program, wave, latents, dtype="float32").dtype == np.float32


def test_latents_are_left_alone(rng: np.random.Generator) -> None:
    latents = rng.normal(size=SHAPE)
    kept = latents.copy()
    run(random_program(rng, 3, 3), wave, latents, draw=table_of_noise(rng))
    assert np.array_equal(latents, kept)


def test_decoder(rng: np.random.Generator) -> None:
    one_shot = Program(name="gan", slots=1, init_scale=0.7, rows=())
    latents, classes = rng.normal(size=(3, 6)), np.array([1, 2, 0])

    def decoder(z: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        assert labels is not None
        return np.sin(z) + labels[:, None]

    wanted = np.sin(0.7 * latents) + classes[:, None]
    assert np.allclose(run(one_shot, None, latents, classes=classes, decoder=decoder), wanted)
    program = build({"prediction": "flow"}, "euler", 3)
    assert np.allclose(run(program, wave, latents, decoder=lambda z, labels: 2 * z), 2 * run(program, wave, latents))


def test_what_is_missing_is_named(rng: np.random.Generator) -> None:
    latents: Any = rng.normal(size=SHAPE)
    guided = build({"prediction": "flow"}, "euler", 3, guidance_scale=2.0)
    with pytest.raises(ProgramError, match="guidance needs a class for each sample and the null class"):
        run(guided, wave, latents, null_class=10)
    with pytest.raises(ProgramError, match="guidance needs a class"):
        run(guided, wave, latents, classes=np.zeros(3))
    with pytest.raises(ProgramError, match="a program without rows needs a decoder"):
        run(Program(name="gan", slots=1, init_scale=1.0, rows=()), None, latents)
    with pytest.raises(ProgramError, match="a program with rows needs a network"):
        run(guided, None, latents)
