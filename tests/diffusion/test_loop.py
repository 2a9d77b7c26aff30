"""Prepared loops: on the CPU their capture is recorded by stand-ins, on a GPU it is real. `sample` is the reference."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from aigc_edge.diffusion import build, prepare, sample
from aigc_edge.errors import AigcEdgeError, ProgramError

core = pytest.importorskip("aigc_edge._core")
torch = pytest.importorskip("torch")
SHAPE = (3, 2, 6, 4)
EDM = {"prediction": "edm"}
SOLVERS = ["dpmpp_2m", "heun", "euler_ancestral", "dpmpp_3m_sde"]
on_gpu = pytest.mark.skipif(bool(core.cuda_unavailable()) or not torch.cuda.is_available(), reason="needs a GPU, torch with CUDA")


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Capture and replay on CPU tensors (tests/recorded_graphs.py)."""
    from tests.recorded_graphs import RecordedGraphs

    return RecordedGraphs(monkeypatch)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=on_gpu)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cpu":
        request.getfixturevalue("recorded")
    return str(request.param)


class Net(torch.nn.Module):
    """A convolution, the time and a label, with a few operations that allocate."""

    def __init__(self, device: str = "cpu", dtype: Any = torch.float32) -> None:
        super().__init__()
        self.inner = torch.nn.Conv2d(2, 2, 3, padding=1)
        self.label = torch.nn.Embedding(5, 2)
        self.to(device, dtype).requires_grad_(False)

    def forward(self, sample: Any, timestep: Any, label: Any = None) -> Any:
        x = self.inner(sample)
        x = x + 0.05 * torch.cos(timestep)[:, None, None, None].to(x.dtype)
        if label is not None:
            x = x + 0.2 * self.label(label)[:, :, None, None]
        return torch.tanh(x)


def normal(device: str, *lead: int) -> Any:
    return torch.from_numpy(np.random.default_rng().normal(size=(*lead, *SHAPE)).astype(np.float32)).to(device)


def labels(device: str) -> dict[str, Any]:
    return {"label": torch.from_numpy(np.random.default_rng().integers(0, 5, SHAPE[0])).to(device)}


def close(found: Any, wanted: Any, relative: float = 1e-5) -> None:
    assert found.dtype == torch.float32
    assert float((found - wanted).norm()) <= relative * float(wanted.norm())


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_capture_serves_new_latents_seeds_classes_and_noise(device: str, solver: str) -> None:
    network, rng = Net(device), np.random.default_rng()
    program = build(EDM, solver, 5, guidance_scale=2.5, guidance_interval=(0.1, 50.0), guidance_rescale=0.3)
    given = {"conditions": labels(device), "negative": labels(device)}
    loop = prepare(program, network, normal(device), **given)
    assert (loop.captured, loop.reason) == (True, None)
    for _ in range(3):
        given = {"conditions": labels(device), "negative": labels(device)}
        latents, seeds = normal(device), rng.integers(0, 2**64, SHAPE[0], dtype=np.uint64)
        kept = latents.clone()
        close(loop(latents, seeds=seeds, **given), sample(program, network, latents, seeds=seeds, **given))
        assert torch.equal(latents, kept)
        noise = normal(device, len(program.draws))
        close(loop(latents, noise=noise), sample(program, network, latents, noise=noise, **given))
        close(loop(latents, noise="numpy"), sample(program, network, latents, noise="numpy", **given))
        assert loop.captured


def test_masks_and_what_is_known_are_copied_in(device: str) -> None:
    network, program = Net(device), build(EDM, "dpmpp_2m", 4)
    first = {"mask": (normal(device) > 0).float(), "known": normal(device)}
    loop = prepare(program, network, normal(device), **first)
    for _ in range(2):
        latents = normal(device)
        given = {"mask": (normal(device) > 0).float(), "known": normal(device), "known_noise": normal(device)}
        close(loop(latents, **given), sample(program, network, latents, **given))
    found = loop(latents)
    assert torch.equal(torch.where(given["mask"] == 0, found, 0), torch.where(given["mask"] == 0, given["known"], 0))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_and_channels_last(device: str, dtype: str) -> None:
    network, program = Net(device, getattr(torch, dtype)).to(memory_format=torch.channels_last), build(EDM, "dpmpp_2m", 4)
    loop = prepare(program, network, normal(device), channels_last=True)
    latents = normal(device)
    close(loop(latents), sample(program, network, latents, channels_last=True), 1e-3)
    assert loop.captured


def test_one_kernel_stands_between_two_evaluations_of_a_capture(recorded: Any) -> None:
    program = build(EDM, "euler_ancestral", 4, guidance_scale=3.0)
    prepare(program, Net(), normal("cpu"), conditions=labels("cpu"), negative=labels("cpu"))
    (record,) = recorded.records
    kinds = ["kernel" if "Rows" in repr(call[0]) else "network" for call in record.calls]
    runs = [kind for place, kind in enumerate(kinds) if place == 0 or kinds[place - 1] != kind]
    assert runs == ["kernel", *["network", "kernel"] * 4]
    assert kinds.count("kernel") == 5
    copies = {"aten::_to_copy", "aten::clone", "aten::copy_", "aten::contiguous"}
    assert not copies & {call[0]._schema.name for call in record.calls if hasattr(call[0], "_schema")}


def test_the_capture_is_warmed_up_on_a_stream_of_its_own(recorded: Any) -> None:
    prepare(build(EDM, "euler", 2), Net(), normal("cpu"))
    steps = 3  # of two rows
    wanted = ["device cpu", "side waits for caller", "stream", *["solver_step"] * 3 * steps, "caller waits for side"]
    wanted += ["capture begins", *["solver_step"] * steps, "capture ends"]
    assert recorded.events[: len(wanted)] == wanted
    assert recorded.events[len(wanted) :] == [*["solver_step"] * steps, "replay"]  # the proof


def reads_back(sample: Any, timestep: Any) -> Any:
    return sample * float(timestep[0])


class Stateful:
    """Depends on how often it was called, which a graph cannot know."""

    calls = 0

    def __call__(self, sample: Any, timestep: Any) -> Any:
        self.calls += 1
        return torch.tanh(sample) * self.calls


class Limited:
    """A network that knows that it cannot be captured, as the tensorrt engine does."""

    def __call__(self, sample: Any, timestep: Any) -> Any:
        return torch.tanh(sample)

    def uncapturable(self, batch: int) -> str | None:
        return None if batch <= 2 else f"a batch of {batch} is larger than 2"


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (reads_back, "the network cannot be captured (RuntimeError: "),
        (Stateful(), "its replay differs from a run"),
        (Limited(), "a batch of 3 is larger than 2"),
    ],
)
def test_what_cannot_be_captured_runs_row_by_row_and_says_why(device: str, network: Any, reason: str) -> None:
    program, latents = build(EDM, "dpmpp_2m", 3), normal(device)
    loop = prepare(program, network, latents)
    assert not loop.captured
    assert reason in str(loop.reason)
    assert "\n" not in str(loop.reason)
    if not isinstance(network, Stateful):
        close(loop(latents), sample(program, network, latents))
    with pytest.raises(ProgramError, match="cannot be one CUDA graph, as graph=True wants: "):
        prepare(program, network, latents, graph=True)
    again = prepare(program, Net(device), latents)  # a failed capture spoils no other
    assert again.captured
    if device == "cuda":
        torch.randn(4, device=device)  # nor torch's random numbers


def test_long_programs_are_not_captured_and_broken_networks_are_not_hidden(recorded: Any) -> None:
    long = prepare(build(EDM, "euler", 501), Net(), normal("cpu"))
    assert (long.captured, recorded.events) == (False, [])
    assert long.reason == "the program has 501 rows, and a graph of more than 500 takes too much memory"
    with pytest.raises(ProgramError, match=r"the network returned Tensor \[3\]"):
        prepare(build(EDM, "euler", 2), lambda sample, timestep: timestep, normal("cpu"))
    assert "capture begins" not in recorded.events


def test_a_failed_capture_gives_the_stream_and_the_pool_back(recorded: Any) -> None:
    prepare(build(EDM, "euler", 2), reads_back, normal("cpu"))
    place = recorded.events.index("capture begins")
    assert recorded.events[place + 1 : place + 4] == ["solver_step", "set stream caller", "pool ended"]


def test_progress_is_told_row_by_row(device: str) -> None:
    program, latents, told = build(EDM, "dpmpp_2m", 3), normal(device), []
    network = Net(device)
    loop = prepare(program, network, latents)
    close(loop(latents, progress=lambda *row: told.append(row)), sample(program, network, latents))
    assert told == [(0, 3), (1, 3), (2, 3)]
    assert (loop.captured, "progress" in str(loop.reason)) == (False, True)
    loop(latents)
    assert (loop.captured, loop.reason) == (True, None)


def test_a_value_that_is_not_finite_is_named_after_a_replay(device: str) -> None:
    program, latents = build(EDM, "dpmpp_2m", 4), normal(device)
    loop = prepare(program, lambda sample, timestep: torch.log(sample[:, :1, :1, :1] + 9.0) + 0 * sample, latents)
    assert loop.captured
    loop(latents)
    latents[1, 0, 0, 0] = -20.0
    with pytest.raises(AigcEdgeError, match="row 0 of 4 for sample 1"):
        loop(latents)
    assert torch.isfinite(prepare(program, Net(device), latents)(latents)).all()


def test_without_a_gpu_a_loop_runs_all_the_same() -> None:
    program = build(EDM, "euler_ancestral", 4)
    network, latents = Net(), normal("cpu")
    loop = prepare(program, network, latents)
    assert (loop.captured, loop.reason) == (False, "the latents are on 'cpu': a CUDA graph needs them on a CUDA device")
    assert torch.equal(loop(latents, seeds=[4, 5, 6]), sample(program, network, latents, seeds=[4, 5, 6]))

    def plain(sample: np.ndarray, timestep: np.ndarray, label: np.ndarray) -> np.ndarray:
        return np.tanh(sample) * (1 + label[:, None, None, None])

    array, label = latents.numpy(), np.array([1.0, 2.0, 3.0])
    on_numpy = prepare(program, plain, array, conditions={"label": label[:1]})
    found = on_numpy(array, conditions={"label": label})
    np.testing.assert_array_equal(found, sample(program, plain, array, conditions={"label": label}))
    assert "NumPy" in str(on_numpy.reason)
    with pytest.raises(ProgramError, match="graph=True wants: the latents are a NumPy array"):
        prepare(program, plain, array, conditions={"label": label}, graph=True)
    assert prepare(program, network, latents, graph=False).reason == "graph=False was given"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"conditions": {"other": 1}}, r"conditions are \['other'\]: the loop was prepared for \['label'\]"),
        ({"conditions": {"label": torch.zeros(2, dtype=torch.int64)}}, "condition 'label' must be a torch tensor whose first"),
        (
            {"conditions": {"label": torch.zeros(3)}},
            r"condition 'label' is torch.float32 \[3\]: the loop was prepared for torch.i",
        ),
        ({"conditions": {"label": [1, 2, 3]}}, "condition 'label' must be a torch tensor"),
        ({"mask": torch.ones(SHAPE)}, "mask was given to a loop that was prepared without"),
        ({"seeds": [1]}, "seeds must hold one whole number"),
        ({"noise": "dice"}, "philox|numpy"),
    ],
)
def test_what_does_not_fit_a_loop_is_refused(given: dict[str, Any], sentence: str) -> None:
    loop = prepare(build(EDM, "euler_ancestral", 3), Net(), normal("cpu"), conditions=labels("cpu"))
    with pytest.raises(AigcEdgeError, match=sentence):
        loop(normal("cpu"), **given)
    with pytest.raises(ProgramError, match="graph is 'maybe': it must be 'auto', True or False"):
        prepare(build(EDM, "euler", 3), Net(), normal("cpu"), graph="maybe")


@on_gpu
def test_the_graph_holds_one_solver_step_between_two_evaluations() -> None:
    program = build(EDM, "dpmpp_2m", 6)
    loop = prepare(program, Net("cuda"), normal("cuda"))
    latents = normal("cuda")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        loop(latents)
        torch.cuda.synchronize()
    kernels = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    names = [e.name for e in sorted(kernels, key=lambda e: e.time_range.start)]
    steps = [place for place, name in enumerate(names) if "solver_step" in name]
    if not names:
        pytest.skip("the profiler sees no kernels here")
    assert len(steps) == 7
    between = [names[a + 1 : b] for a, b in itertools.pairwise(steps)]
    assert all(part and not any("Memcpy" in name or "copy" in name.lower() for name in part) for part in between)
    assert {tuple(part) for part in between} == {tuple(between[0])}
