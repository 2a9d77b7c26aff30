"""`sample` around functions, modules and engines, on NumPy arrays and torch tensors, against the NumPy executor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aigc_edge.diffusion import Program, build, reference, sample
from aigc_edge.diffusion.executor import execution
from aigc_edge.errors import AigcEdgeError, ProgramError

pytest.importorskip("aigc_edge._core")
SHAPE = (3, 2, 6, 4)
EDM = {"prediction": "edm"}


def network(sample: Any, timestep: Any, label: Any = None) -> Any:
    """A smooth function that mixes neighbours, of NumPy arrays and torch tensors alike."""
    each = (slice(None), None, None, None)
    roll = np.roll(sample, 1, -1) if isinstance(sample, np.ndarray) else sample.roll(1, -1)
    squashed = sample + 0.3 * roll
    squashed = squashed / (1 + squashed**2) ** 0.5
    scale = 0.3 if label is None else 0.2 + 0.1 * label[each]
    return (squashed * scale + 0.05 * timestep[each]).astype(sample.dtype) if isinstance(sample, np.ndarray) else (
        squashed * scale + 0.05 * timestep[each]
    ).to(sample.dtype)  # fmt: skip


def normal(*lead: int) -> np.ndarray:
    return np.random.default_rng().normal(size=(*lead, *SHAPE)).astype(np.float32)


def exact(program: Program, latents: np.ndarray, labels: Any = None, other: Any = None, dtype: Any = np.float64, **options: Any):
    def own(sample: np.ndarray, timestep: np.ndarray, classes: Any) -> np.ndarray:
        return network(sample, timestep, classes)

    return reference.run(program, own, latents, classes=labels, negative_classes=other, dtype=dtype, **options)


def close(found: np.ndarray, run: Callable[[Any], np.ndarray]) -> None:
    truth, plain = run(np.float64), run(np.float32)
    floor = 4 * np.finfo(np.float32).eps * np.abs(truth).max()
    assert np.abs(found - truth).max() <= 2 * np.abs(plain - truth).max() + floor


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun", "euler_ancestral", "dpmpp_3m_sde"])
def test_a_guided_run_is_the_numpy_executors(kind: str, solver: str) -> None:
    torch = pytest.importorskip("torch")
    program = build(EDM, solver, 6, guidance_scale=2.5, guidance_interval=(0.1, 50.0), guidance_rescale=0.4)
    latents, seeds = normal(), np.random.default_rng().integers(0, 2**64, 3, dtype=np.uint64)
    labels, other = np.array([0, 3, 1]), np.array([2, 2, 0])
    mask, known = (normal() > 0).astype(np.float32), normal()
    give = torch.from_numpy if kind == "torch" else np.asarray
    found = sample(
        program,
        network, give(latents), seeds=seeds, conditions={"label": give(labels)}, negative={"label": give(other)},
        mask=give(mask), known=give(known),
    )  # fmt: skip
    assert isinstance(found, torch.Tensor if kind == "torch" else np.ndarray)
    close(np.asarray(found), lambda dtype: exact(program, latents, labels, other, dtype, seeds=seeds, mask=mask, known=known))


def test_a_module_in_half_precision_and_channels_last() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(int(np.random.default_rng().integers(2**31)))
    convolution = torch.nn.Conv2d(2, 2, 3, padding=1)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = convolution

        def forward(self, sample: Any, timestep: Any) -> Any:
            seen.append((sample.dtype, sample.is_contiguous(memory_format=torch.channels_last), sample.data_ptr()))
            return self.inner(sample) + 0.01 * timestep[:, None, None, None].to(sample.dtype)

    seen: list[Any] = []
    latents, program = torch.from_numpy(normal()), build(EDM, "dpmpp_2m", 7)
    full = sample(program, Net(), latents)
    plain = Net().to(torch.bfloat16)
    low = sample(program, plain, latents)
    last = sample(program, plain.to(memory_format=torch.channels_last), latents, channels_last=True)
    assert [s[0] for s in seen] == [torch.float32] * 7 + [torch.bfloat16] * 14
    assert all(s[1] for s in seen[14:])
    assert len({s[2] for s in seen[7:14]}) == 1  # one buffer for all rows
    assert full.dtype == low.dtype == torch.float32
    assert not full.requires_grad
    size = full.norm()
    assert (low - full).norm() < 0.02 * size  # bfloat16 has 8 bits
    assert (last - low).norm() < 0.02 * size


def test_numpy_float16_goes_through_the_kernel() -> None:
    program, latents, seen = build(EDM, "dpmpp_2m", 6), normal(), []

    def half(sample: np.ndarray, timestep: np.ndarray) -> np.ndarray:
        seen.append(sample.dtype)
        return network(sample, timestep)

    found = sample(program, half, latents, dtype="float16")
    assert set(seen) == {np.dtype(np.float16)}

    def rounded(sample: np.ndarray, timestep: np.ndarray, classes: Any) -> np.ndarray:
        return network(sample.astype(np.float16), timestep.astype(np.float32)).astype(np.float64)

    np.testing.assert_allclose(found, reference.run(program, rounded, latents), atol=0.02)


def test_there_is_one_kernel_between_two_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    class Counted(execution.Rows):
        def run(self, *arguments: Any) -> None:
            events.append("kernel")
            super().run(*arguments)

    monkeypatch.setattr(execution, "Rows", Counted)

    def watched(sample: np.ndarray, timestep: np.ndarray, label: Any) -> np.ndarray:
        events.append("network")
        return network(sample, timestep, label)

    program = build(EDM, "euler_ancestral", 4, guidance_scale=3.0, s_noise=0.9)
    labels = {"label": np.zeros(3)}
    mask = np.ones(SHAPE, np.float32)
    sample(program, watched, normal(), conditions=labels, negative=labels, mask=mask, known=mask, guidance_rescale=0.5)
    assert events == ["kernel", *["network", "kernel"] * 4]


def test_noise_of_other_sources_and_given_noise() -> None:
    program, latents = build(EDM, "euler_ancestral", 5), normal()
    given = normal(len(program.draws))
    draws = iter([])

    def run(dtype: Any) -> np.ndarray:
        nonlocal draws
        draws = iter(given)
        return exact(program, latents, dtype=dtype, draw=lambda *_: next(draws))

    close(sample(program, network, latents, noise=given), run)
    streams = [np.random.default_rng(seed) for seed in (4, 5, 6)]
    own = np.stack(
        [np.stack([s.standard_normal(SHAPE[1:], dtype=np.float32) for s in streams]) for _ in range(1 + len(program.draws))]
    )
    np.testing.assert_array_equal(
        sample(program, network, own[0], noise="numpy", seeds=[4, 5, 6]), sample(program, network, own[0], noise=own[1:])
    )


def test_an_engine_is_bound_once_a_batch_size() -> None:
    from aigc_edge.bundle.spec import ComponentSpec, TensorSpec

    class Bound:
        shape = ("N", *SHAPE[1:])
        spec = ComponentSpec(
            "denoiser",
            (
                TensorSpec("x", "sample", "float32", shape),
                TensorSpec("t", "timestep", "float32", ("N",)),
                TensorSpec("label", "class", "int64", ("N",)),
            ),
            (TensorSpec("y", "sample", "float32", shape),),
        )
        binds = 0

        def bind(self, inputs: Any, outputs: Any) -> Callable[[], None]:
            self.binds += 1

            def call() -> None:
                outputs["y"][...] = network(inputs["x"], inputs["t"], inputs["label"])

            return call

    engine, latents, labels = Bound(), normal(), np.array([0, 3, 1])
    program = build(EDM, "dpmpp_2m", 8, guidance_scale=2.0, guidance_interval=(0.2, 9.0))
    found = sample(program, engine, latents, conditions={"label": labels}, negative={"label": np.array([2])})
    close(found, lambda dtype: exact(program, latents, labels, np.full(3, 2), dtype))
    assert engine.binds == 2  # guided and plain rows
    with pytest.raises(ProgramError, match="needs the condition 'label'"):
        sample(build(EDM, "euler", 2), engine, latents)


def test_progress_can_stop_and_a_later_run_is_whole() -> None:
    class Stop(Exception):
        pass

    def stop(row: int, rows: int) -> None:
        assert rows == 6
        if row == 2:
            raise Stop

    program, latents = build(EDM, "dpmpp_2m", 6), normal()
    with pytest.raises(Stop):
        sample(program, network, latents, progress=stop)
    close(sample(program, network, latents), lambda dtype: exact(program, latents, dtype=dtype))


def test_odd_latents_and_outputs_are_taken() -> None:
    program, latents = build(EDM, "dpmpp_2m", 3), normal()
    wanted = sample(program, network, latents)
    frozen = latents.copy()
    frozen.flags.writeable = False
    strided = np.empty((*SHAPE[:-1], 2 * SHAPE[-1]), np.float32)[..., ::2]
    strided[...] = latents
    for odd in (frozen, strided, np.asfortranarray(latents), latents.astype(np.float64)):
        np.testing.assert_array_equal(sample(program, network, odd), wanted)

    def transposed(sample: np.ndarray, timestep: np.ndarray) -> np.ndarray:
        return np.asfortranarray(network(sample, timestep).astype(np.float64))

    np.testing.assert_array_equal(sample(program, transposed, latents), wanted)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"guidance_scale": 2.0}, "guidance needs conditions and negative conditions"),
        ({"conditions": {"label": np.zeros(2)}}, "condition 'label' must be a NumPy array whose first size is 3 or 1"),
        ({"mask": np.ones(SHAPE, np.float32)}, "a mask and what is known must be given together"),
        ({"mask": np.ones((1, 2)), "known": np.ones(SHAPE)}, r"mask must be a NumPy array \[3, 2, 6, 4\]"),
        ({"dtype": "bfloat16"}, "NumPy has no bfloat16"),
        ({"dtype": "int8"}, "the network's dtype is 'int8': it must be one of float32, float16, bfloat16"),
        ({"seeds": [1]}, "seeds must hold one whole number for each of the 3 samples"),
        ({"noise": "dice"}, "philox|numpy"),
        ({"noise": np.zeros((2, *SHAPE))}, r"noise must be a NumPy array \[4, 3, 2, 6, 4\]"),
        ({"guidance_rescale": -1.0}, "guidance_rescale must be"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AigcEdgeError, match=sentence):
        sample(build(EDM, "euler_ancestral", 5), network, normal(), **given)


def test_a_network_that_returns_nonsense_is_named() -> None:
    program = build(EDM, "dpmpp_2m", 5)
    with pytest.raises(ProgramError, match=r"the network returned ndarray \[3, 2\]"):
        sample(program, lambda sample, timestep: sample[:, :, 0, 0], normal())
    with pytest.raises(ProgramError, match="the network returned NoneType"):
        sample(program, lambda sample, timestep: None, normal())
    with pytest.raises(AigcEdgeError, match="the latents are a list: give a NumPy array or a torch tensor"):
        sample(program, network, [1.0])
    rows = []

    def broken(sample: np.ndarray, timestep: np.ndarray) -> np.ndarray:
        rows.append(1)
        output = network(sample, timestep)
        if len(rows) == 3:
            output[1, 0, 0, 0] = np.nan
        return output

    with pytest.raises(AigcEdgeError, match="row 2 of 5 for sample 1"):
        sample(program, broken, normal())
    assert len(rows) == 3


@pytest.mark.parametrize("steps", [1, 10_000])
def test_few_and_many_steps(steps: int) -> None:
    program, latents = build(EDM, "euler", steps), normal()[:, :1, :1, :2]
    close(sample(program, network, latents), lambda dtype: exact(program, latents, dtype=dtype))


def test_gigantic_guidance_is_an_error_that_says_so() -> None:
    program, labels = build(EDM, "euler", 4), {"label": np.zeros(3)}
    with pytest.raises(AigcEdgeError, match=r"not finite in row \d of 4 for sample \d: .* a lower guidance scale"):
        sample(program, network, normal(), conditions=labels, negative={"label": np.full(3, 1e3)}, guidance_scale=3.4e38)
