"""Where the sampling loop runs: on the CPU, or on a GPU whose memory the engine and the runtime share."""

from __future__ import annotations

import importlib.util

from aigc_edge.engines.base import Engine
from aigc_edge.errors import AigcEdgeError, EngineUnavailable

DEVICES = ("auto", "cpu", "cuda")
MAX_BATCH = 64  # on a GPU; larger counts run one after the other, with the same result, and need no graph of their own


def without_gpu() -> str | None:
    """Why torch and the kernels of this build cannot compute on a GPU here; None when they can."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed, which owns the memory on the GPU: pip install 'aigc-edge[train]'"
    import torch

    from aigc_edge.ops import native_core  # here: sampling on a CPU imports no ops

    if not torch.cuda.is_available():
        built = "its build has no CUDA" if torch.version.cuda is None else "there is no NVIDIA GPU with a driver"
        return f"torch finds no GPU here ({built}): choose the device 'cpu'"
    core = native_core()
    return "the native core was not built: install aigc-edge" if core is None else core.cuda_unavailable() or None


def choose(engine: type[Engine], device: str) -> tuple[str | None, str | None]:
    """Where a pipeline samples: torch's device, or None for the runtime's own loop in host memory; and why it is not the GPU.

    "auto" takes the GPU for an engine that computes nowhere else. Raises EngineUnavailable for a GPU that is missing, and
    AigcEdgeError for a device that the engine does not support.
    """
    if device not in DEVICES:
        raise AigcEdgeError(f"device is {device!r}: it must be one of {', '.join(DEVICES)}")
    if device == "cpu" or (device == "auto" and "cpu" in engine.devices):
        if "cpu" not in engine.devices:
            raise AigcEdgeError(f"the engine {engine.name!r} computes on a GPU only: choose the device 'cuda', or another engine")
        return None, "the device is the CPU"
    if "cuda" not in engine.devices:
        raise EngineUnavailable(
            f"the engine {engine.name!r} computes on the CPU only: for a GPU choose the engine torch or tensorrt"
        )
    reason = without_gpu()
    if reason is None:
        return "cuda:0", None
    if "cpu" in engine.devices:
        raise EngineUnavailable(f"device='cuda' was requested, and {reason}")
    return None, f"the loop runs on the CPU around a network on the GPU: {reason}"  # such an engine copies by itself
