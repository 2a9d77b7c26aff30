"""TensorRT on NVIDIA GPUs: one engine over two modules of the same API, `tensorrt_rtx` (PyPI) and `tensorrt` (JetPack, NVIDIA).

A plan in the bundle that was built for this GPU is loaded; otherwise the ONNX file is built here once and the plan is cached.
"""

from __future__ import annotations

import functools
import os
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from aigc_edge.bundle.component import PlanEntry
from aigc_edge.bundle.spec import ComponentSpec
from aigc_edge.engines import cuda_driver
from aigc_edge.engines.base import ENGINES, Buffers, Engine, EngineSource, check_buffers, check_signature, made_as
from aigc_edge.engines.plans.module import accepted, import_tensorrt, installed, module_version
from aigc_edge.errors import EngineUnavailable

AMPERE = 80
HOST_CODE = "AIGC_EDGE_PLAN_HOST_CODE"  # 1: load version-compatible plans, which contain host code


@functools.cache
def _runtime(name: str) -> Any:
    trt = import_tensorrt(name)
    return trt.Runtime(trt.Logger(trt.Logger.ERROR))  # TensorRT accepts one logger per process


@ENGINES.register("tensorrt")
class TensorRTEngine(Engine):
    """A plan with one execution context; batches larger than its profile's maximum run in several evaluations."""

    name, devices = "tensorrt", ("cuda",)
    features = (
        dict.fromkeys(("fp16", "int8w"), 75)
        | dict.fromkeys(("fp32", "bf16", "int8", "int4"), 80)
        | dict.fromkeys(("fp8", "fp8w"), 89)
        | dict.fromkeys(("nvfp4", "w4a4"), 100)
    )
    schedule_engine = "onnxruntime"

    def __init__(self, spec: ComponentSpec, engine: Any, stream: cuda_driver.Stream, largest: int) -> None:
        self.spec = spec
        self._context = engine.create_execution_context()
        if self._context is None:
            raise EngineUnavailable(f"out of GPU memory for running {spec.name!r}: free some, or use --engine onnxruntime")
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
                "running a TensorRT plan needs an NVIDIA GPU with a driver; this machine has none: use --engine onnxruntime here"
            )
        return None

    @classmethod
    def load(cls, source: EngineSource, *, threads: int) -> Engine:
        reason = cls.unavailable()
        device = cuda_driver.device()
        if reason is not None or device is None:
            raise EngineUnavailable(reason or "this machine has no NVIDIA GPU with a driver")
        stream = cuda_driver.Stream()
        module, plan = _find_plan(source, device)
        runtime = _runtime(module)
        if _host_code():
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineUnavailable(
                f"{module} here cannot load the {source.format} plan of {source.spec.name!r} on {device.name}: it was "
                "built with another version or for another GPU; build it here with aigc-edge build --force"
            )
        trt, names = import_tensorrt(module), [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        actual = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))).name for name in names}
        check_signature(source, "the plan", actual, {t.name: t.dtype for t in (*source.spec.inputs, *source.spec.outputs)})
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
                for name in arrays:  # every time, because other bindings share the context
                    accepted(context.set_tensor_address(name, memory[name]), f"the address of {name!r}")
                accepted(context.execute_async_v3(stream.handle), "the evaluation")
                for name, array in outputs.items():
                    stream.download(array[part], memory[name])
            stream.wait()

        # Device memory is freed when the caller drops the returned function; at exit the driver reclaims it.
        weakref.finalize(call, _release, stream, memory).atexit = False
        stream.enter()
        for name, array in arrays.items():
            memory[name] = stream.allocate(array[:largest].nbytes)
        return call

    def on_device(self, device: str) -> Callable[..., Any]:
        from aigc_edge.engines.plans.network import TensorRTNetwork  # here, as tensorrt_plan: "auto" imports every engine

        return TensorRTNetwork(self.spec, self._engine, self._largest, device)

    def close(self) -> None:
        self._context = None  # before its engine
        self._engine = None


def _release(stream: cuda_driver.Stream, memory: dict[str, int]) -> None:
    for pointer in memory.values():
        stream.free(pointer)


def _find_plan(source: EngineSource, device: cuda_driver.Device) -> tuple[str, bytes]:
    """The module name and the plan's bytes for `device`: from the bundle, otherwise built on this machine."""
    modules = installed()
    plans = [plan for plan in source.component.engines if plan.format == source.format]
    matching = [plan for plan in plans if _for_device(plan, device) and plan.module in modules]
    for plan in matching:
        if _loadable(plan, module_version(plan.module)):
            return plan.module, source.files.read(plan.file)
    what = f"the {source.format} plan of {source.spec.name!r} for {device.name} (SM{device.sm})"
    problem = (
        f"in the bundle is of {matching[0].built_with}, not of the installed version" if matching else "is not in the bundle"
    )
    if source.files.packed:
        raise EngineUnavailable(f"{what} {problem}: add it with aigc-edge build {source.bundle}")
    warnings.warn(f"{what} {problem}: it is built now, once; aigc-edge build {source.bundle} adds it", stacklevel=2)
    from aigc_edge.engines.plans import plan as tensorrt_plan

    relative, module = source.model_file("tensorrt"), modules[0]
    name = device.name if module == "tensorrt" else ""
    format = made_as(relative, source.format)
    # The size that the bundle was opened at is already in the spec: any one leaves its shapes as they are.
    shapes = tensorrt_plan.shapes_of(source.spec, [(0, 0)] if source.component.dims else [], tensorrt_plan.BATCHES)
    with source.loadable("tensorrt") as (_, onnx):  # a folder: packed bundles were refused above
        request = tensorrt_plan.PlanRequest(
            Path(str(onnx)), format, device.sm, device.name, module=module, device=name, shapes=shapes
        )
        return module, tensorrt_plan.build_plan(request).file.read_bytes()


def _for_device(plan: PlanEntry, device: cuda_driver.Device) -> bool:
    """Whether the manifest lists the plan for this GPU: same compute capability, and same model where it is bound to one."""
    if plan.options.get("hardware_compatibility") == "ampere+":
        return device.sm >= AMPERE
    return plan.sm == device.sm and plan.device in ("", device.name)


def _loadable(plan: PlanEntry, version: str) -> bool:
    """Whether the installed version can load a plan: the version that built it, or a later one for version-compatible plans.

    A version-compatible plan contains host code, which is not run from a bundle unless the user allows it.
    """
    built = plan.built_with.partition(" ")[2]
    if not plan.options.get("version_compatible"):
        return built == version
    then, now = ([int(part) for part in text.split(".") if part.isdigit()] for text in (built, version))
    return _host_code() and then <= now


def _host_code() -> bool:
    return os.environ.get(HOST_CODE, "") not in ("", "0")
