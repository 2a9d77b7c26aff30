"""The fused step: exact answers, and that sample i is bit for bit the same whatever the batch, the threads and the addresses."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest

from aigc_edge import ops
from aigc_edge.errors import AigcEdgeError
from aigc_edge.ops import solver_step

core = pytest.importorskip("aigc_edge._core")


def only_sample(arguments: dict[str, Any], sample: int) -> dict[str, Any]:
    """The same call for one sample of the batch."""
    own = copy.deepcopy(arguments)
    for name in ("slots", "output", "net_input"):
        if own.get(name) is not None:
            own[name] = np.ascontiguousarray(own[name][:, sample : sample + 1])
    for name in ("seeds", "nonfinite", "after_eps", "before_eps", "mask", "known", "known_eps"):
        if own.get(name) is not None:
            own[name] = own[name][sample : sample + 1].copy()
    return own


def test_a_sample_is_the_same_alone_and_in_a_batch(fresh_seed: int) -> None:
    for arguments in ops.MODULES["solver_step"].samples(np.random.default_rng(fresh_seed)):
        batch = copy.deepcopy(arguments)
        count = batch["slots"].shape[1]
        alone = [only_sample(batch, sample) for sample in range(count)]
        solver_step(**batch)
        for sample, own in enumerate(alone):
            solver_step(**own)
            expected = only_sample(batch, sample)
            for name in ("slots", "net_input", "nonfinite"):
                np.testing.assert_array_equal(own[name], expected[name])


@pytest.mark.parametrize("noises", [0, 2])
def test_threads_and_addresses_change_nothing(noises: int, fresh_seed: int) -> None:
    rng = np.random.default_rng(fresh_seed)
    arguments = ops.MODULES["solver_step"]._arguments(rng, 2, 3, 150_001, 2, 2, noises, True, True)
    expected = copy.deepcopy(arguments)
    solver_step(**expected)
    shifted = copy.deepcopy(arguments)
    for name in ("slots", "output", "net_input"):  # one float beyond where the array would lie
        room = np.empty(shifted[name].size + 1, np.float32)
        room[1:] = shifted[name].ravel()
        shifted[name] = room[1:].reshape(shifted[name].shape)
    core.set_threads(3)
    try:
        solver_step(**shifted)
    finally:
        core.set_threads(1)
    for name in ("slots", "net_input", "nonfinite"):
        np.testing.assert_array_equal(shifted[name], expected[name])


@pytest.mark.parametrize(("inputs", "elements"), [(1, 400_003), (2, 200_016), (2, 200_003)])
def test_what_is_written_past_the_caches_is_the_same(inputs: int, elements: int, fresh_seed: int) -> None:
    # Above 48 MB in all; each sample alone is below. One float beyond where the array would lie, so that the first are no vector.
    arguments = ops.MODULES["solver_step"]._arguments(np.random.default_rng(fresh_seed), 2, 8, elements, 2, inputs, 1, True, 1)
    room = np.full(arguments["net_input"].size + 1, np.nan, np.float32)
    arguments["net_input"] = room[1:].reshape(arguments["net_input"].shape)
    alone = [only_sample(arguments, sample) for sample in range(8)]
    solver_step(**arguments)
    for sample, own in enumerate(alone):
        solver_step(**own)
        expected = only_sample(arguments, sample)
        for name in ("slots", "net_input", "nonfinite"):
            np.testing.assert_array_equal(own[name], expected[name])
    assert np.isnan(room[0])


def test_euler_steps_of_a_linear_equation_have_their_closed_form() -> None:
    # dx/dt = (x - D) / t with D = x / 2, the network giving F = x (c_skip 0, c_out 1/2); an Euler step from t to s multiplies by
    # 1 + (s - t) / (2 t).
    times = np.linspace(80.0, 1.0, 33)
    slots = np.full((1, 2, 10), 3.0, np.float32)
    expected = 3.0
    for t, s in itertools.pairwise(times):
        ratio = s / t
        solver_step(slots, slots.copy(), c_out=0.5, after=np.array([[ratio, 1 - ratio]]))
        expected *= 1 + (s - t) / (2 * t)
    np.testing.assert_allclose(slots, expected, rtol=32 * 2**-23)


def test_guidance_clip_and_input_on_numbers_that_floats_hold_exactly() -> None:
    slots = np.array([[[8.0, -8.0, 0.5]], [[1.0, 1.0, 1.0]]], np.float32)
    output = np.array([[[2.0, -2.0, 0.25]], [[1.0, -1.0, 0.25]]], np.float32)
    net_input = np.zeros((2, 1, 3), np.float32)
    flags = np.zeros(1, np.int32)
    solver_step(
        slots,
        output,
        guidance=3.0,  # F = 4, -4, 0.25
        c_skip=0.5,
        c_out=2.0,  # D = 12, -12, 0.75
        clip_mode=1,
        clip_low=-10.0,
        clip_high=10.0,
        after=np.array([[1.0, 2.0, 4.0], [0.0, 0.0, 1.0]]),
        before=np.array([[0.0, 1.0], [1.0, 0.0]]),
        c_in=0.25,
        net_input=net_input,
        nonfinite=flags,
    )
    np.testing.assert_array_equal(slots, [[[10.0, -10.0, 0.75]], [[50.0, -46.0, 5.5]]])
    np.testing.assert_array_equal(net_input, np.broadcast_to([[2.5, -2.5, 0.1875]], (2, 1, 3)))
    assert flags[0] == 0


def test_every_float16_is_read_and_every_float_is_rounded_to_the_nearest(fresh_seed: int) -> None:
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    slots = np.zeros((1, 1, 65536), np.float32)
    solver_step(slots, halves.reshape(1, 1, -1), after=np.array([[0.0, 1.0]]))
    finite = np.isfinite(halves)
    np.testing.assert_array_equal(slots[0, 0][finite], halves[finite].astype(np.float32))

    bits = np.random.default_rng(fresh_seed).integers(0, 2**32, 1 << 20, dtype=np.uint32)
    ties = (np.arange(1 << 16, dtype=np.uint32) << 16 | 0x1000) - np.arange(1 << 16, dtype=np.uint32) % 3  # between two halves
    slots = np.concatenate([bits, ties]).view(np.float32).reshape(1, 1, -1).copy()
    net_input = np.empty(slots.shape, np.float16)
    with np.errstate(all="ignore"):
        expected = slots.astype(np.float16)
    solver_step(slots.copy(), net_input=net_input)
    np.testing.assert_array_equal(net_input, expected)


def test_bfloat16_is_torchs(fresh_seed: int) -> None:
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(fresh_seed)
    slots = torch.randn(1, 2, 6001, generator=generator) * 10.0 ** torch.randint(-30, 30, (1, 2, 6001), generator=generator)
    output = torch.randn(2, 2, 6001, generator=generator).bfloat16()
    net_input = torch.empty(1, 2, 6001, dtype=torch.bfloat16)
    solver_step(slots, net_input=net_input)
    assert torch.equal(net_input, slots.bfloat16())
    solver_step(slots, output, guidance=0.0, after=np.array([[0.0, 1.0]]))
    assert torch.equal(slots[0], output[1].float())


def test_dynamic_clipping_is_torchs_quantile_and_rescale_its_standard_deviations(fresh_seed: int) -> None:
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(fresh_seed)
    raw = 3 * torch.randn(1, 3, 4099, generator=generator)
    for quantile, largest in ((0.995, 100.0), (0.5, 1.5), (0.0, 9.0), (1.0, 1e9)):
        slots = torch.zeros_like(raw)
        solver_step(slots, raw, clip_mode=2, clip_low=quantile, clip_high=largest, after=np.array([[0.0, 1.0]]))
        bound = torch.quantile(raw[0].abs().double(), quantile, dim=1, keepdim=True).clamp(1, largest)
        torch.testing.assert_close(slots[0].double(), raw[0].double().clamp(-bound, bound) / bound, rtol=1e-6, atol=1e-7)
    both = torch.randn(2, 3, 4099, generator=generator)
    slots = torch.zeros_like(raw)
    solver_step(slots, both, guidance=4.0, rescale=0.7, after=np.array([[0.0, 1.0]]))
    joined = (both[1] + 4 * (both[0] - both[1])).double()
    rescaled = joined * both[0].double().std(1, keepdim=True) / joined.std(1, keepdim=True)
    torch.testing.assert_close(slots[0].double(), 0.7 * rescaled + 0.3 * joined, rtol=2e-6, atol=1e-6)


def test_an_output_of_one_value_is_not_rescaled(rng: np.random.Generator) -> None:
    """It has no deviation, and what rounding leaves of one is no measure of another."""
    both = np.repeat(rng.standard_normal((2, 5, 1)).astype(np.float32), 4099, axis=2)
    both[0, 1], both[1, 1] = rng.standard_normal(4099), -1
    slots = {kind: np.zeros((1, 5, 4099), kind) for kind in (np.float32, np.float64)}
    solver_step(slots[np.float32], both, guidance=1.5, rescale=1.0, after=np.array([[0.0, 1.0]]))
    solver_step.reference(slots[np.float64], both.astype(np.float64), guidance=1.5, rescale=1.0, after=np.array([[0.0, 1.0]]))
    one = [0, 2, 3, 4]
    np.testing.assert_allclose(slots[np.float32][0, one], (both[1] + 1.5 * (both[0] - both[1]))[one], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(slots[np.float32], slots[np.float64], rtol=1e-5, atol=1e-5)
    assert slots[np.float64][0, 1].std() == pytest.approx(both[0, 1].std(), rel=1e-5)


def test_a_mark_stays_the_first_one() -> None:
    flags, slots = np.zeros(1, np.int32), np.ones((1, 1, 8), np.float32)
    broken = np.full((1, 1, 8), np.nan, np.float32)
    for mark in (3, 4):
        solver_step(slots, broken, after=np.array([[1.0, 1.0]]), nonfinite=flags, mark=mark)
    assert flags.tolist() == [3]


def test_only_the_sample_that_is_not_finite_is_flagged(fresh_seed: int) -> None:
    rng = np.random.default_rng(fresh_seed)
    for value in (np.nan, np.inf, -np.inf):
        for place in range(37):  # every lane, whole vectors and the tail
            output = rng.normal(size=(1, 3, 37)).astype(np.float32)
            output[0, 1, place] = value
            slots, flags = np.zeros((1, 3, 37), np.float32), np.array([0, 0, 7], np.int32)
            solver_step(slots, output, clip_mode=1, after=np.array([[0.5, 0.5]]), nonfinite=flags)
            assert flags.tolist() == [0, 1, 7]
            assert np.isfinite(slots[0, [0, 2]]).all()


def test_an_overflow_of_the_result_is_flagged() -> None:
    flags = np.zeros(2, np.int32)
    slots = np.array([[[3e38], [1.0]]], np.float32)
    solver_step(slots, before=np.array([[4.0]]), nonfinite=flags)
    assert flags.tolist() == [1, 0]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"slots": np.zeros((9, 1, 4), np.float32)}, "9 slots were given: 1 to 8 are allowed"),
    ({"output": np.zeros((1, 1, 4), np.float32)}, "output and after must both be given"),
    ({"output": np.zeros((3, 1, 4), np.float32), "after": np.eye(1, 2)}, "output has 3 halves: 1 or 2"),
    ({"net_input": np.zeros((3, 1, 4), np.float32)}, "net_input has 3 halves: 1 or 2"),
    (
        {"net_input": np.zeros((1, 2, 4), np.float32)},
        "net_input has the shape [1, 2, 4]: [K, N, E] with N = 1, as in slots, is needed",
    ),
    ({"clip_mode": 3}, "clip_mode is 3: 0 (none), 1 (range) and 2 (dynamic) are allowed"),
    ({"clip_mode": 2}, "dynamic clipping takes a quantile of 0 to 1 in clip_low"),
    ({"rescale": 1.5}, "rescale is 1.5"),
    ({"channels": 3}, "3 channels do not divide 4 elements"),
    ({"mask": np.ones((1, 4), np.float32)}, "mask and known must both be given"),
    (
        {"mask": np.ones((1, 4), np.float32), "known": np.ones((1, 4), np.float32), "known_noise": 1.0},
        "known_noise is not 0 and known_eps is absent",
    ),
    ({"after_output": np.ones(1)}, "after_output needs after"),
    ({"net_input": np.zeros((1, 1, 4))}, "net_input is float64: float32, float16 or bfloat16 [K, N, E] is needed"),
    ({"clip_mode": 1, "clip_low": 2.0}, "clip_low is above clip_high"),
    ({"before_noise": np.ones(1)}, "noise is asked for and seeds is absent"),
    ({"before": np.eye(2)}, "before has the shape [2, 2]: [S, S] with S = 1"),
    ({"before": np.eye(1, dtype=np.float32)}, "before is float32: float64[S, S] is needed"),
]


@pytest.mark.parametrize(("given", "sentence"), WRONG)
def test_what_is_not_allowed_is_said(given: dict[str, Any], sentence: str) -> None:
    arguments = {"slots": np.zeros((1, 1, 4), np.float32)} | given
    with pytest.raises(AigcEdgeError) as raised:
        solver_step(**arguments)
    assert str(raised.value).startswith("solver_step: ")
    assert sentence in str(raised.value)
