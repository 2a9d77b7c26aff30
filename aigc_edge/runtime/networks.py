"""The networks of an open bundle, bound to the runtime's buffers: in host memory, or on a GPU through torch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.component import DECODER, DENOISER, SCHEDULE
from aigc_edge.engines.base import Engine, require
from aigc_edge.errors import EngineUnavailable
from aigc_edge.runtime import device as devices

Views = Mapping[str, Any]  # NumPy arrays, or dictionaries like __cuda_array_interface__ for tensors on a GPU
Evaluate = Callable[[int, int], None]  # (row, rows)


class Networks:
    """What the native handle calls to evaluate networks. It refers to neither the handle nor the pipeline, which hold it.

    `device` is torch's name of the GPU where the loop runs, None the CPU. `progress(row, rows)` and `watch(component, row,
    inputs, outputs)`, if there are any, are called after each evaluation.
    """

    def __init__(self, device: str | None) -> None:
        self.engines: dict[str, Engine] = {}
        self.seconds: dict[str, float] = {}  # inside each network, since it was cleared; where the loop runs on the CPU
        self.progress: Callable[[int, int], None] | None = None
        self.watch: Callable[[str, int, Views, Views], None] | None = None
        self._on_device: dict[str, Callable[..., Any]] = {}
        self._device: Any = None
        self._stream: Any = None  # torch's, on which all work of the runtime is queued
        if device is None:
            return
        if device.startswith("cuda") and (reason := devices.without_gpu()):
            raise EngineUnavailable(reason)
        import torch

        self._device = torch.device(device)
        if self._device.type == "cuda":
            self._stream = torch.cuda.Stream(self._device)

    @property
    def place(self) -> dict[str, Any]:
        """The arguments of the native handle that say where the loop runs."""
        if self._device is None:
            return {}
        stream = 0 if self._stream is None else self._stream.cuda_stream
        return {"device": 1, "stream": stream, "capture": self.capture, "max_batch": devices.MAX_BATCH}

    def current(self) -> contextlib.AbstractContextManager[Any]:
        """A context whose current GPU is the one of the loop, and torch's current stream the runtime's."""
        if self._stream is None:
            return contextlib.nullcontext()
        import torch

        context: contextlib.AbstractContextManager[Any] = torch.cuda.stream(self._stream)
        return context

    def load(self, bundle: Bundle, load: Callable[[str], Engine]) -> None:
        """Load the denoiser and the decoder by `load`; the other components are loaded by the first call that needs them."""
        self._bundle = bundle
        for name in (DENOISER, DECODER):
            if name not in bundle.manifest.components:
                continue
            self.engines[name] = load(name)
            if self._device is not None:
                self._on_device[name] = self.engines[name].on_device(str(self._device))

    def bind(self, component: str, inputs: Views, outputs: Views) -> Evaluate:
        """What evaluates a component on these buffers."""
        if component == SCHEDULE:
            return self._bind_schedule(inputs, outputs)
        run = (self._bind_host if self._device is None else self._bind_device)(component, inputs, outputs)

        def call(row: int, num_rows: int) -> None:
            start = time.perf_counter()
            run()
            if self._device is None:
                self.seconds[component] = self.seconds.get(component, 0.0) + time.perf_counter() - start
            if self.watch is not None:
                self.watch(component, row, inputs, outputs)
            if self.progress is not None:
                self.progress(row, num_rows)

        return call

    def capture(self, work: Callable[[], None], batch: int) -> Callable[[], None] | str:
        """What replays all that `work` queues, or why there is no such graph; `batch` is that of the largest evaluation."""
        from aigc_edge.diffusion.executor import graph

        limit = getattr(self._on_device[DENOISER], "uncapturable", None)
        reason: str | None = graph.unavailable(self._device) or (limit(batch) if callable(limit) else None)
        if reason:
            return reason
        try:
            replay = graph.capture(work, self._device, stream=self._stream, warm_ups=0)
        except graph.CaptureFailed as error:
            return f"the network cannot be captured ({error})"

        def call() -> None:
            with self.current():
                replay()

        return call

    def close(self) -> None:
        """Release the networks."""
        self._on_device.clear()
        for engine in self.engines.values():
            engine.close()
        self.engines.clear()

    def _bind_host(self, component: str, inputs: Views, outputs: Views) -> Callable[[], None]:
        engine = self.engines[component]
        return engine.bind({t.name: inputs[t.name] for t in engine.spec.inputs}, outputs)

    def _bind_device(self, component: str, inputs: Views, outputs: Views) -> Callable[[], None]:
        import torch

        spec, network = self.engines[component].spec, self._on_device[component]
        tensors = {t.name: self._tensor(inputs[t.name]) for t in spec.inputs}
        roles = {t.role: tensors.pop(t.name) for t in spec.inputs if t.role in ("sample", "timestep")}
        (result,) = (self._tensor(output) for output in outputs.values())

        def run() -> None:
            with torch.no_grad(), self.current():
                result.copy_(network(roles["sample"], roles.get("timestep"), **tensors))

        return run

    def _tensor(self, interface: dict[str, Any]) -> Any:
        """The runtime's memory as a torch tensor; that of a device that stands in for a GPU is host memory."""
        import torch

        if self._device.type == "cuda":
            return torch.as_tensor(type("View", (), {"__cuda_array_interface__": interface})(), device=self._device)
        return torch.from_numpy(np.asarray(type("View", (), {"__array_interface__": interface})()))

    def _bind_schedule(self, inputs: Views, outputs: Views) -> Evaluate:
        """Schedule constants of timesteps that the bundle's programs do not have; they are evaluated in host memory."""
        if not any(t.role == "constant" for t in self.engines[DENOISER].spec.inputs):
            for array in outputs.values():  # this engine evaluates the whole network
                array.fill(0)
            return lambda row, num_rows: None
        if SCHEDULE not in self.engines:
            from aigc_edge.engines.constants import schedule_source

            source = schedule_source(self._bundle, self._bundle.manifest.components[SCHEDULE])
            source.files.read(source.model_file())  # checks its hash, which opening did not
            engine = type(self.engines[DENOISER])
            self.engines[SCHEDULE] = (require(engine.schedule_engine) if engine.schedule_engine else engine).load(
                source, threads=1
            )
        run = self.engines[SCHEDULE].bind(inputs, outputs)
        return lambda row, num_rows: run()
