"""TensorRT on NVIDIA GPUs: one engine over two modules of the same API, `tensorrt_rtx` (PyPI) and `tensorrt` (JetPack, NVIDIA).

A plan in the bundle that was built for this GPU is loaded; without one the ONNX file is built here, once, into the cache.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from aigc_edge.engines import cuda_driver
from aigc_edge.engines.base import ENGINES, Buffers, Engine, EngineSource, check_buffers
from aigc_edge.engines.tensorrt_module import import_tensorrt, installed
from aigc_edge.engines.tensorrt_network import TensorRTNetwork, accepted
from aigc_edge.engines.tensorrt_plan import PlanRequest, build_plan
from aigc_edge.errors import BundleError, EngineUnavailable
from aigc_edge.spec import ComponentSpec


@functools.cache
def _runtime(name: str) -> Any:
    trt = import_tensorrt(name)
    return trt.Runtime(trt.Logger(trt.Logger.ERROR))  # one logger a process is all that TensorRT takes


@ENGINES.register("tensorrt")
class TensorRTEngine(Engine):
    """A plan with one execution context; batches above the largest of its profile run in parts."""

    name, devices = "tensorrt", ("cuda",)
    schedule_engine = "onnxruntime"

    def __init__(self, spec: ComponentSpec, engine: Any, stream: cuda_driver.Stream, largest: int) -> None:
        self.spec = spec
        self._context = engine.create_execution_context()
        if self._context is None:
            raise EngineUnavailable(f"the GPU has no memory left to run {spec.name!r}: free some, or use --engine onnxruntime")
        self._engine, self._stream, self._largest = engine, stream, largest

    @classmethod
    def unavailable(cls) -> str | None:
        if not installed():
            return (
                "the engine 'tensorrt' is not installed here: pip install tensorrt-rtx-cu13 (GeForce RTX), or use NVIDIA's "
                "tensorrt (part of JetPack on a Jetson), or --engine onnxruntime"
            )
        if cuda_driver.device() is None:
            return (
                "running a TensorRT plan needs an NVIDIA GPU with a driver; this machine has none: the plans in a bundle are for "
                "machines that have one, use --engine onnxruntime here"
            )
        return None

    @classmethod
    def load(cls, source: EngineSource, *, threads: int) -> Engine:
        reason = cls.unavailable()
        device = cuda_driver.device()
        if reason is not None or device is None:
            raise EngineUnavailable(reason or "no NVIDIA GPU with a driver is in this machine")
        stream = cuda_driver.Stream()
        module, plan = _find_plan(source, device)
        engine = _runtime(module).deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineUnavailable(
                f"{module} here cannot load the {source.format} plan of {source.spec.name!r} on {device.name}: another version "
                "built it; compile the bundle again with the version that is installed here"
            )
        _check_signature(import_tensorrt(module), engine, source)
        largest = int(engine.get_tensor_profile_shape(source.spec.inputs[0].name, 0)[2][0])
        return cls(source.spec, engine, stream, largest)

    def bind(self, inputs: Buffers, outputs: Buffers) -> Callable[[], None]:
        batch = check_buffers(self.spec, inputs, outputs)
        stream, context, largest = self._stream, self._context, self._largest
        arrays = {**inputs, **outputs}
        memory: dict[str, int] = {}

        def call() -> None:
            stream.enter()
            for first in range(0, batch, largest):
                part = slice(first, first + largest)
                for name, array in inputs.items():
                    stream.upload(memory[name], array[part])
                    accepted(context.set_input_shape(name, array[part].shape), f"the shape of {name!r}")
                for name in arrays:  # each time: other bindings share the context
                    accepted(context.set_tensor_address(name, memory[name]), f"the address of {name!r}")
                accepted(context.execute_async_v3(stream.handle), "the evaluation")
                for name, array in outputs.items():
                    stream.download(array[part], memory[name])
            stream.wait()

        # The device memory goes back when the caller drops the call; at exit the driver takes it back itself.
        weakref.finalize(call, _release, stream, memory).atexit = False
        stream.enter()
        for name, array in arrays.items():
            memory[name] = stream.allocate(array[:largest].nbytes)
        return call

    def on_device(self, device: str) -> Callable[..., Any]:
        return TensorRTNetwork(self.spec, self._engine, self._largest, device)

    def close(self) -> None:
        self._context = None  # before its engine
        self._engine = None


def _release(stream: cuda_driver.Stream, memory: dict[str, int]) -> None:
    for pointer in memory.values():
        stream.free(pointer)


def _find_plan(source: EngineSource, device: cuda_driver.Device) -> tuple[str, bytes]:
    """The module and the bytes of the plan for `device`: from the bundle, else built here."""
    modules = installed()
    for entry in source.component.get("engines", ()):
        module = str(entry.get("built_with", "")).split(" ")[0]
        if entry.get("format") == source.format and entry.get("sm") == device.sm and module in modules:
            return module, source.read(str(entry["file"]))
    relative = source.model_file("tensorrt")
    if source.packed:
        raise EngineUnavailable(
            f"{source.bundle} has no {source.format} plan for {device.name} (SM{device.sm}), and a packed bundle is not built "
            "from: compile it for this device, or unpack it"
        )
    module = modules[0]
    request = PlanRequest(source.bundle / relative, source.format, device.sm, device.name, module=module, device=device.name)
    return module, build_plan(request).file.read_bytes()


def _check_signature(trt: Any, engine: Any, source: EngineSource) -> None:
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    found = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))).name for name in names}
    wanted = {t.name: t.dtype for t in (*source.spec.inputs, *source.spec.outputs)}
    if found != wanted:
        raise BundleError(f"the plan of {source.spec.name!r} has {found}, its manifest says {wanted}: compile the bundle again")
