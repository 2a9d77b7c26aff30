"""Stand-ins for torch's CUDA streams and graphs that work on CPU tensors: a capture records, a replay computes from the record.

A replay executes the recorded torch operations and solver steps again, with the very tensors of the record. So it gives right
results for new input only when everything that may change lies in buffers that stand. What cannot be captured on a GPU (reading
a value back) raises here too. Not covered: streams that race, allocations, kernels.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

READS_BACK = {"aten::_local_scalar_dense", "aten::item", "aten::nonzero"}


class Record(TorchDispatchMode):
    """What was called between the beginning and the end of a capture."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in READS_BACK:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand much more")
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        for func, args, kwargs, out in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class RecordedGraphs:
    """Replaces what `aigc_edge.diffusion.executor.graph` uses of torch.cuda; `events` tells what was asked for, in order.

    With `core` (tests/emulated_core.py) what the runtime queues on its emulated GPU is recorded too.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, core: Any = None) -> None:
        from aigc_edge.diffusion.executor import arrays, execution, graph

        self.events: list[str] = []
        self.records: list[Record] = []
        self.stream, self.recording, self.core = "caller", None, core
        made, owner = arrays.TorchArrays.__init__, self

        def elsewhere(self: Any, like: Any) -> None:
            made(self, like)
            self.on_host = False  # so that nothing is read back between rows, as on a GPU

        monkeypatch.setattr(arrays.TorchArrays, "__init__", elsewhere)

        class Rows(execution.Rows):
            def run(self, *arguments: Any) -> None:
                owner.events.append("solver_step")
                if owner.recording is not None:
                    owner.recording.calls.append((super().run, arguments, {}, None))
                super().run(*arguments)

        monkeypatch.setattr(execution, "Rows", Rows)
        monkeypatch.setattr(graph, "unavailable", lambda device: None)
        replaced = {
            "device": lambda device: _Context(self, f"device {device}"),
            "current_stream": lambda: SimpleNamespace(
                name=self.stream, wait_stream=lambda s: self.say(f"caller waits for {s.name}")
            ),
            "Stream": lambda: SimpleNamespace(name="side", wait_stream=lambda s: self.say(f"side waits for {s.name}")),
            "stream": lambda stream: _Context(self, "stream", stream.name),
            "set_stream": lambda stream: self.say(f"set stream {stream.name}"),
            "graph_pool_handle": lambda: (0, 1),
            "CUDAGraph": lambda: _Graph(self),
            "graph": lambda graph, **options: _Capture(self, graph, options),
            "synchronize": lambda: None,
            "current_device": lambda: 0,
        }
        for name, value in replaced.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *_: self.say("pool ended"), raising=False)

    def say(self, event: str) -> None:
        self.events.append(event)


class _Graph:
    def __init__(self, owner: RecordedGraphs) -> None:
        self.owner, self.record = owner, Record()

    def replay(self) -> None:
        self.owner.say("replay")
        self.record.replay()


class _Context:
    def __init__(self, owner: RecordedGraphs, event: str, stream: str = "") -> None:
        self.owner, self.event, self.stream = owner, event, stream

    def __enter__(self) -> None:
        self.owner.say(self.event)
        self.before, self.owner.stream = self.owner.stream, self.stream or self.owner.stream

    def __exit__(self, *_: Any) -> None:
        self.owner.stream = self.before


class _Capture:
    def __init__(self, owner: RecordedGraphs, graph: _Graph, options: dict[str, Any]) -> None:
        self.owner, self.graph, self.options = owner, graph, options

    def __enter__(self) -> None:
        assert self.options["capture_error_mode"] == "thread_local"
        self.owner.say("capture begins")
        self.owner.recording = record = self.graph.record
        if core := self.owner.core:
            core.record(lambda number: record.calls.append((core.repeat, (number,), {}, None)))
        record.__enter__()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.graph.record.__exit__(kind, error, trace)
        self.owner.recording = None
        if self.owner.core:
            self.owner.core.record(None)
        if kind is not None:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        self.owner.say("capture ends")
        self.owner.records.append(self.graph.record)
