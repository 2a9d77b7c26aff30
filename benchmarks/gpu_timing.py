"""Timing for benchmarks/gpu.py: calls take turns, the device's clock and the wall's, medians with spread, and the ceilings."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from aigc_edge.bench.measure import rotation
from aigc_edge.bench.statistics import compare, summary

Call = Callable[[], object]


class Bench:
    """What is measured where: `device`, and how many rounds; `quick` is for a look at whether it runs at all."""

    def __init__(self, device: str, quick: bool) -> None:
        self.device, self.quick, self.cuda = torch.device(device), quick, device.startswith("cuda")

    def rounds(self, many: int) -> int:
        """Timed rounds: few when quick."""
        return 3 if self.quick else many

    def wait(self) -> None:
        """Return when the device has done everything."""
        if self.cuda:
            torch.cuda.synchronize()

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Unit normals: never zeros, which run faster than what is real."""
        return torch.randn(shape, device=self.device).to(dtype)

    def timed(self, calls: Mapping[str, Call], rounds: int, repeats: int = 1) -> dict[str, dict[str, Any]]:
        """Seconds a call, in turns: "wall" from the queueing to the end of the last, "device" between two events around them.

        Each round runs every call `repeats` times, the order changes from round to round.
        """
        names, found = list(calls), {name: {"wall": [], "device": []} for name in calls}
        warm = 1 if self.quick else 3
        for turn in range(-warm, rounds):
            for name in rotation(names, turn + warm):
                call = calls[name]
                self.wait()
                events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if self.cuda else []
                started = time.perf_counter()
                if events:
                    events[0].record()
                for _ in range(repeats):
                    call()
                if events:
                    events[1].record()
                self.wait()
                wall = (time.perf_counter() - started) / repeats
                if turn >= 0:
                    found[name]["wall"].append(wall)
                    found[name]["device"].append(events[0].elapsed_time(events[1]) / 1e3 / repeats if events else wall)
        return {
            name: {kind: summary(values) | {"samples": values} for kind, values in own.items()} for name, own in found.items()
        }

    def ratios(self, timed: Mapping[str, dict[str, Any]], ours: str, kind: str) -> dict[str, Any]:
        """How many times faster `ours` is than each other, round by round."""
        samples = {name: own[kind]["samples"] for name, own in timed.items()}
        return {name: compare(samples[ours], values) for name, values in samples.items() if name != ours}

    def replayed(self, call: Call, times: int) -> Call | None:
        """`times` calls as one CUDA graph, which leaves out what it costs to launch them; None without a GPU."""
        if not self.cuda:
            return None
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(times):
                call()
        return graph.replay

    def launches(self, call: Call) -> int:
        """Kernels, copies and fills that one call starts on the GPU; without one, the torch operations of the call."""
        self.wait()
        kind = torch.profiler.ProfilerActivity.CUDA if self.cuda else torch.profiler.ProfilerActivity.CPU
        with torch.profiler.profile(activities=[kind]) as profile:
            call()
            self.wait()
        if not self.cuda:
            return sum(1 for event in profile.events() if event.name.startswith("aten::") and event.cpu_parent is None)
        return sum(1 for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA)

    def ceilings(self) -> dict[str, float]:
        """What the device reaches here: bytes/s of a large copy (read + written), FLOP/s of large matrix products by dtype."""
        size = 2**22 if self.quick or not self.cuda else 2**31
        source = torch.empty(size, dtype=torch.uint8, device=self.device).random_()
        target = torch.empty_like(source)
        copied = self.timed({"copy": lambda: target.copy_(source)}, self.rounds(20))["copy"]
        found = {"copy_bytes_per_second": 2 * size / copied["device"]["median"]}
        side = 256 if self.quick or not self.cuda else 8192
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            a, b = self.normal(side, side, dtype=dtype), self.normal(side, side, dtype=dtype)
            seconds = self.timed({"product": lambda a=a, b=b: a @ b}, self.rounds(10))["product"]["device"]["median"]  # type: ignore[misc]
            found[f"{str(dtype).removeprefix('torch.')}_flop_per_second"] = 2 * side**3 / seconds
        return found
