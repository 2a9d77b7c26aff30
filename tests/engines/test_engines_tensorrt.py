"""The run-time side of TensorRT, which needs a GPU, against stand-ins that record the calls and compute in NumPy.

They prove the order of the calls, the copies and the parts of large batches; not that a real GPU agrees.
"""

from __future__ import annotations

import gc
import sys
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from aigc_edge.bundle.component import PlanEntry
from aigc_edge.bundle.storage import Files
from aigc_edge.engines import cuda_driver, tensorrt
from aigc_edge.engines.plans import plan as tensorrt_plan
from aigc_edge.engines.plans.plan import TensorRTPlan
from aigc_edge.engines.tensorrt import TensorRTEngine
from aigc_edge.errors import AigcEdgeError, BundleError, EngineUnavailable

LARGEST = 4
DEVICE = cuda_driver.Device("GeForce RTX 3060", 86, 12 << 30)


class FakeStream:
    """Device memory is a dict; work is queued and runs only when waited for, as on a GPU."""

    def __init__(self):
        self.handle, self.memory, self.queue, self.entered = 99, {}, [], 0

    def enter(self):
        self.entered += 1

    def allocate(self, size):
        pointer = 1000 + len(self.memory)
        self.memory[pointer] = np.zeros(size, np.uint8)
        return pointer

    def free(self, pointer):
        self.memory[pointer] = None

    def upload(self, pointer, source):
        assert source.flags.c_contiguous
        data = source.reshape(-1).view(np.uint8)
        assert data.size <= self.memory[pointer].size
        self.queue.append(lambda: self.memory[pointer].__setitem__(slice(data.size), data))

    def download(self, target, pointer):
        data = target.reshape(-1).view(np.uint8)
        assert np.shares_memory(data, target)
        self.queue.append(lambda: data.__setitem__(slice(None), self.memory[pointer][: data.size]))

    def wait(self):
        for work in self.queue:
            work()
        self.queue.clear()


class FakeContext:
    """Evaluates the network of the tests on "device memory"."""

    def __init__(self, network, stream, spec):
        self.network, self.stream, self.spec = network, stream, spec
        self.shapes, self.addresses, self.refuse, self.evaluated = {}, {}, None, []

    def set_input_shape(self, name, shape):
        self.shapes[name] = tuple(shape)
        return self.refuse != "shape" and shape[0] <= LARGEST

    def set_tensor_address(self, name, pointer):
        self.addresses[name] = pointer
        return self.refuse != "address"

    def execute_async_v3(self, handle):
        assert handle == self.stream.handle
        shapes, addresses = dict(self.shapes), dict(self.addresses)
        assert set(addresses) == {"sample", "timestep", "class_labels", "output"}
        self.evaluated.append(shapes["sample"][0])

        def work():
            inputs = {}
            for tensor in self.spec.inputs:
                shape, memory = shapes[tensor.name], self.stream.memory[addresses[tensor.name]]
                count = int(np.prod(shape)) * np.dtype(tensor.dtype).itemsize
                inputs[tensor.name] = memory[:count].view(tensor.dtype).reshape(shape)
            answer = self.network.answer(inputs, np.float32).reshape(-1).view(np.uint8)
            self.stream.memory[addresses["output"]][: answer.size] = answer

        self.stream.queue.append(work)
        return self.refuse != "evaluation"


class FakeEngine:
    types: ClassVar = {"sample": np.float32, "timestep": np.float32, "class_labels": np.int64, "output": np.float32}

    def __init__(self, context):
        self.context = context
        self.num_io_tensors = len(self.types)

    def get_tensor_name(self, index):
        return list(self.types)[index]

    def get_tensor_dtype(self, name):
        return self.types[name]

    def get_tensor_profile_shape(self, name, index):
        assert index == 0
        return [(1, 3, 8, 8), (2, 3, 8, 8), (LARGEST, 3, 8, 8)]

    def create_execution_context(self):
        return self.context


@pytest.fixture
def machine(network, monkeypatch):
    """A machine with a GPU: modules, device, stream and runtime replaced."""
    stream = FakeStream()
    state = SimpleNamespace(stream=stream, modules=["tensorrt_rtx"], loaded=[], built=[])
    state.context = FakeContext(network, stream, network.source().spec)
    state.engine = FakeEngine(state.context)

    def runtime(module):
        def deserialize(plan):
            state.loaded.append((module, plan))
            return None if plan == b"foreign" else state.engine

        return SimpleNamespace(deserialize_cuda_engine=deserialize)

    def build(request):
        state.built.append(request)
        file = network.folder / "built.plan"
        file.write_bytes(b"built here")
        return TensorRTPlan(file, {})

    monkeypatch.setattr(cuda_driver, "device", lambda: DEVICE)
    monkeypatch.setattr(cuda_driver, "Stream", lambda: stream)
    monkeypatch.setattr(tensorrt, "installed", lambda: state.modules)
    monkeypatch.setattr(tensorrt, "import_tensorrt", lambda name: SimpleNamespace(nptype=lambda dtype: dtype))
    monkeypatch.setattr(tensorrt, "_runtime", runtime)
    monkeypatch.setattr(tensorrt_plan, "build_plan", build)
    monkeypatch.setattr(tensorrt, "module_version", lambda module: "1.7")
    return state


def _with_plans(network, *plans):
    source = network.source()
    entries = []
    for index, (sm, format, module) in enumerate(plans):
        (network.folder / f"{index}.plan").write_bytes(f"plan {index}".encode())
        entries.append(PlanEntry("tensorrt", format, "rtx-30", f"{index}.plan", sm, f"{module} 1.7"))
    return source._replace(component=source.component._replace(engines=tuple(entries)))


@pytest.mark.parametrize("batch", [1, 3, LARGEST, LARGEST + 1, 2 * LARGEST + 1])
def test_evaluations_copy_run_and_copy_back_in_parts(network, machine, batch):
    engine = TensorRTEngine.load(_with_plans(network, (86, "fp32", "tensorrt_rtx")), threads=1)
    for seed in (1, 2):
        inputs = network.inputs(batch, seed)
        np.testing.assert_array_equal(engine.evaluate(inputs)["output"], network.answer(inputs, np.float32))
    parts = [min(LARGEST, batch - first) for first in range(0, batch, LARGEST)]
    assert machine.context.evaluated == parts * 2


def test_bindings_share_the_context_and_give_their_memory_back(network, machine):
    engine = TensorRTEngine.load(_with_plans(network, (86, "fp32", "tensorrt_rtx")), threads=1)
    inputs = [network.inputs(n, seed=n) for n in (2, 3)]
    outputs = [np.zeros((n, 3, 8, 8), np.float32) for n in (2, 3)]
    calls = [engine.bind(i, {"output": o}) for i, o in zip(inputs, outputs, strict=True)]
    for index in (0, 1, 0):
        outputs[index][:] = np.nan
        calls[index]()
        np.testing.assert_array_equal(outputs[index], network.answer(inputs[index], np.float32))
    assert len([m for m in machine.stream.memory.values() if m is not None]) == 8
    del calls[0]
    gc.collect()
    assert len([m for m in machine.stream.memory.values() if m is not None]) == 4


def test_the_plan_for_this_gpu_and_format_is_chosen(network, machine):
    plans = [(89, "fp32", "tensorrt_rtx"), (86, "int8", "tensorrt_rtx"), (86, "fp32", "tensorrt"), (86, "fp32", "tensorrt_rtx")]
    TensorRTEngine.load(_with_plans(network, *plans), threads=1)
    assert machine.loaded == [("tensorrt_rtx", b"plan 3")]
    assert machine.built == []


def test_without_a_plan_for_this_gpu_it_is_built_here(network, machine):
    machine.modules = ["tensorrt", "tensorrt_rtx"]
    with pytest.warns(UserWarning, match=r"SM86\) is not in the bundle: it is built now, once; aigc-edge build"):
        TensorRTEngine.load(_with_plans(network, (89, "fp32", "tensorrt_rtx")), threads=1)
    (request,) = machine.built
    assert (request.onnx, request.format, request.sm) == (network.folder / "net.onnx", "fp32", 86)
    assert (request.module, request.device) == ("tensorrt", DEVICE.name)
    machine.modules = ["tensorrt_rtx"]  # whose plans are for every card of a capability
    with pytest.warns(UserWarning, match="built now"):
        TensorRTEngine.load(_with_plans(network), threads=1)
    assert (machine.built[1].module, machine.built[1].device) == ("tensorrt_rtx", "")
    assert machine.loaded[0] == ("tensorrt", b"built here")


def test_it_is_built_from_the_graph_that_was_made_for_tensorrt(network, machine):
    source = network.source()
    formats = {"fp32": {"file": "net.onnx", "tensorrt": "net.tensorrt.onnx"}}
    (network.folder / "net.tensorrt.onnx").write_bytes((network.folder / "net.onnx").read_bytes())
    with pytest.warns(UserWarning, match="built now"):
        TensorRTEngine.load(source._replace(component=source.component._replace(formats=formats)), threads=1)
    assert machine.built[0].onnx == network.folder / "net.tensorrt.onnx"
    assert source.model_file("onnxruntime") == "net.onnx"


def test_a_plan_of_another_version_or_network_is_refused(network, machine, refusal):
    source = _with_plans(network, (86, "fp32", "tensorrt_rtx"))
    (network.folder / "0.plan").write_bytes(b"foreign")
    with pytest.raises(EngineUnavailable) as error:
        TensorRTEngine.load(source, threads=1)
    assert "another version" in refusal(error.value)
    (network.folder / "0.plan").write_bytes(b"good")
    machine.engine.types = {**FakeEngine.types, "sample": np.float16}
    with pytest.raises(BundleError, match="manifest declares"):
        TensorRTEngine.load(source, threads=1)


def _entries(source, *changes):
    """The source with its only plan's entry changed, once for each of `changes`."""
    (entry,) = source.component.engines
    engines = tuple(entry._replace(**change) for change in changes)
    return source._replace(component=source.component._replace(engines=engines))


@pytest.mark.parametrize(
    ("change", "loaded"),
    [
        ({}, True),
        ({"device": DEVICE.name}, True),
        ({"device": "NVIDIA RTX A2000"}, False),
        ({"built_with": "tensorrt_rtx 1.6"}, False),
        ({"built_with": "tensorrt_rtx 1.6", "options": {"version_compatible": True}}, False),
        ({"sm": 80, "options": {"hardware_compatibility": "ampere+"}}, True),
        ({"sm": 80}, False),
    ],
)
def test_the_manifest_says_whether_a_plan_is_for_this_gpu_and_version(network, machine, change, loaded):
    source = _entries(_with_plans(network, (86, "fp32", "tensorrt_rtx")), change)
    if loaded:
        TensorRTEngine.load(source, threads=1)
    else:
        with pytest.warns(UserWarning, match="built now"):
            TensorRTEngine.load(source, threads=1)
    assert [plan for _, plan in machine.loaded] == [b"plan 0" if loaded else b"built here"]
    assert len(machine.built) == (not loaded)


def test_plans_with_code_of_their_own_are_loaded_only_where_the_user_says_so(network, machine, monkeypatch):
    monkeypatch.setenv(tensorrt.HOST_CODE, "1")
    base = _with_plans(network, (86, "fp32", "tensorrt_rtx"))
    options = {"options": {"version_compatible": True}}
    source = _entries(base, {"built_with": "tensorrt_rtx 1.8"} | options, {"built_with": "tensorrt_rtx 1.6"} | options)
    TensorRTEngine.load(source, threads=1)
    assert machine.loaded == [("tensorrt_rtx", b"plan 0")]
    newer = _entries(base, {"built_with": "tensorrt_rtx 1.8"} | options)
    with pytest.warns(UserWarning, match="in the bundle is of tensorrt_rtx 1.8"):
        TensorRTEngine.load(newer, threads=1)


def test_a_packed_bundle_is_finished_by_a_command(network, machine, refusal, tmp_path):
    file = tmp_path / "packed.aigc"
    file.write_bytes(b"x")
    source = network.source()._replace(files=Files(file))
    with pytest.raises(EngineUnavailable) as error:
        TensorRTEngine.load(source, threads=1)
    assert f"add it with aigc-edge build {file}" in refusal(error.value)


@pytest.mark.parametrize("what", ["shape", "address", "evaluation"])
def test_a_refusal_of_tensorrt_is_an_error(network, machine, what):
    engine = TensorRTEngine.load(_with_plans(network, (86, "fp32", "tensorrt_rtx")), threads=1)
    machine.context.refuse = what
    with pytest.raises(AigcEdgeError, match=f"TensorRT refused the {what}"):
        engine.evaluate(network.inputs(1, 0))


def test_sentences_for_machines_that_cannot_run_it(monkeypatch, refusal):
    monkeypatch.setattr(tensorrt, "installed", list)
    assert "pip install tensorrt-rtx-cu13" in refusal(Exception(TensorRTEngine.unavailable()))
    monkeypatch.setattr(tensorrt, "installed", lambda: ["tensorrt_rtx"])
    monkeypatch.setattr(cuda_driver, "device", lambda: None)
    sentence = refusal(Exception(TensorRTEngine.unavailable()))
    assert "needs an NVIDIA GPU with a driver; this machine has none" in sentence
    assert "use --engine onnxruntime here" in sentence
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)  # as if it were not installed
    with pytest.raises(EngineUnavailable, match="pip install tensorrt-rtx-cu13"):
        tensorrt.import_tensorrt("tensorrt_rtx")
