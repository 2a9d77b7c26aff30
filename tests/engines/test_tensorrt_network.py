"""A plan on torch tensors, against stand-ins that compute in NumPy on the very addresses they are given."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aigc_edge.diffusion import build, prepare, sample
from aigc_edge.engines.plans.network import TensorRTNetwork
from aigc_edge.engines.tensorrt import TensorRTEngine
from aigc_edge.errors import AigcEdgeError, EngineUnavailable

torch = pytest.importorskip("torch")
LARGEST = 4


class Context:
    """Evaluates at once what a GPU would queue; the first run after a new shape is one that a capture could not hold."""

    def __init__(self, owner: Plan) -> None:
        self.owner, self.shapes, self.addresses, self.updated = owner, {}, {}, False

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert not self.owner.capturing, "shapes may not change while a graph is captured"
        self.shapes[name] = shape
        return shape[0] <= LARGEST

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == self.owner.stream
        assert self.updated or not self.owner.capturing, "the first run of a context updates it"
        self.updated = True
        spec = self.owner.spec
        inputs = {t.name: self.memory(t, self.shapes[t.name]).copy() for t in spec.inputs}
        self.memory(spec.outputs[0], self.shapes["sample"])[...] = self.owner.network.answer(inputs, np.float32)
        self.owner.batches.append(self.shapes["sample"][0])
        return True

    def memory(self, tensor: Any, shape: tuple[int, ...]) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(tensor.dtype).itemsize
        return np.frombuffer((ctypes.c_char * size).from_address(self.addresses[tensor.name]), tensor.dtype).reshape(shape)


class Plan:
    """A deserialised plan; `limits` says whether its contexts can be captured, as TensorRT-RTX does."""

    def __init__(self, network: Any, limits: bool | None = None) -> None:
        self.network, self.spec, self.limits = network, network.source().spec, limits
        self.stream, self.capturing, self.contexts, self.batches = 77, False, 0, []

    def create_execution_context(self) -> Any:
        self.contexts += 1
        context = Context(self)
        if self.limits is not None:
            context.is_stream_capturable = lambda stream: self.limits  # type: ignore[attr-defined]
        return context


@pytest.fixture
def plan(network: Any, monkeypatch: pytest.MonkeyPatch) -> Plan:
    plan = Plan(network)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=plan.stream))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: plan.capturing)
    return plan


def given(network: Any, batch: int, seed: int) -> tuple[dict[str, np.ndarray], list[Any]]:
    inputs = network.inputs(batch, seed)
    return inputs, [torch.from_numpy(inputs[name]) for name in ("sample", "timestep", "class_labels")]


@pytest.mark.parametrize("batch", [1, 3, LARGEST, LARGEST + 1, 2 * LARGEST + 1])
def test_it_computes_on_torch_memory_in_parts_of_the_profile(network: Any, plan: Plan, batch: int) -> None:
    ours = TensorRTNetwork(plan.spec, plan, LARGEST, "cuda:0")
    assert ours.dtype == "float32"
    for seed in (1, 2):
        inputs, (sample, timestep, labels) = given(network, batch, seed)
        found = ours(sample, timestep, class_labels=labels)
        np.testing.assert_array_equal(found.numpy(), network.answer(inputs, np.float32))
    parts = [min(LARGEST, batch - first) for first in range(0, batch, LARGEST)]
    assert plan.batches == parts * 2
    assert plan.contexts == len(set(parts))
    assert (ours.uncapturable(batch) is None) == (batch <= LARGEST)


def test_once_warm_a_capture_may_mix_batches(network: Any, plan: Plan) -> None:
    ours = TensorRTNetwork(plan.spec, plan, LARGEST, "cuda:0")
    for capturing in (False, True):
        plan.capturing = capturing
        for batch in (2, 4, 2):
            inputs, (sample, timestep, labels) = given(network, batch, batch)
            odd = sample.double(), timestep, labels.int()
            found = ours(odd[0], odd[1], class_labels=odd[2])
            np.testing.assert_array_equal(found.numpy(), network.answer(inputs, np.float32))


def test_a_plan_that_manages_its_own_memory_is_not_captured(network: Any, plan: Plan) -> None:
    plan.limits = False
    ours = TensorRTNetwork(plan.spec, plan, LARGEST, "cuda:0")
    _, (sample, timestep, labels) = given(network, 2, 1)
    ours(sample, timestep, class_labels=labels)
    plan.capturing = True
    with pytest.raises(AigcEdgeError, match="this plan manages memory of its own"):
        ours(sample, timestep, class_labels=labels)
    plan.limits, plan.capturing = True, False
    fine = TensorRTNetwork(plan.spec, plan, LARGEST, "cuda:0")
    fine(sample, timestep, class_labels=labels)
    plan.capturing = True
    fine(sample, timestep, class_labels=labels)


def test_a_program_runs_around_the_engine_on_tensors(network: Any, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = object.__new__(TensorRTEngine)
    engine.spec, engine._engine, engine._largest = plan.spec, plan, LARGEST
    monkeypatch.setattr(engine, "on_device", lambda device: TensorRTNetwork(plan.spec, plan, LARGEST, "cuda"))
    program = build({"prediction": "edm"}, "dpmpp_2m", 3, guidance_scale=2.0)
    latents = torch.from_numpy(network.inputs(2, 0)["sample"])
    labels, other = torch.tensor([1, 2]), torch.tensor([0, 0])

    def exact(sample: Any, timestep: Any, class_labels: Any) -> Any:
        inputs = {"sample": sample.numpy(), "timestep": timestep.numpy(), "class_labels": class_labels.numpy()}
        return torch.from_numpy(network.answer(inputs, np.float32))

    options = {"conditions": {"class_labels": labels}, "negative": {"class_labels": other}}
    loop = prepare(program, engine, latents, **options)
    torch.testing.assert_close(loop(latents), sample(program, exact, latents, **options))
    assert set(plan.batches) == {4}  # both halves
    big = prepare(program, engine, latents.repeat(2, 1, 1, 1), conditions={"class_labels": labels.repeat(2)},
                          negative={"class_labels": other.repeat(2)})  # fmt: skip
    assert big.reason is not None


def test_wrong_inputs_and_places_are_sentences(network: Any, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = TensorRTNetwork(plan.spec, plan, LARGEST, "cuda")
    _, (sample, timestep, labels) = given(network, 2, 1)
    with pytest.raises(AigcEdgeError, match="'denoiser' needs the input 'class_labels'"):
        ours(sample, timestep)
    with pytest.raises(AigcEdgeError, match="'denoiser' has no input 'text': it has sample, timestep, class_labels"):
        ours(sample, timestep, class_labels=labels, text=labels)
    for device in ("cpu", "cuda:1"):
        with pytest.raises(EngineUnavailable, match=f"runs on the first GPU, not on '{device}'"):
            TensorRTNetwork(plan.spec, plan, LARGEST, device)
    monkeypatch.setattr(plan, "create_execution_context", lambda: None)
    with pytest.raises(EngineUnavailable, match="no memory left"):
        TensorRTNetwork(plan.spec, plan, LARGEST, "cuda")(sample, timestep, class_labels=labels)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineUnavailable, match="torch has no CUDA here"):
        TensorRTNetwork(plan.spec, plan, LARGEST, "cuda")
