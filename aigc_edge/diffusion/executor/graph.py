"""One CUDA graph of what a function queues, through torch; with what has to be put right when a capture fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

WARM_UPS = 3  # libraries choose their algorithms, allocate their workspaces and load their kernels before a capture


class CaptureFailed(Exception):
    """The function cannot be captured; the message is the first line of what it raised."""


def unavailable(device: Any) -> str | None:
    """Why there are no CUDA graphs for tensors on this torch device; None where there are."""
    if device is None:
        return "the latents are a NumPy array: a CUDA graph needs torch tensors on a CUDA device"
    if device.type != "cuda":
        return f"the latents are on {str(device)!r}: a CUDA graph needs them on a CUDA device"
    return None


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def capture(work: Callable[[], None], device: Any, *, stream: Any = None, warm_ups: int = WARM_UPS) -> Callable[[], None]:
    """Run `work` a few times on `stream` (one of its own), then capture it there; returns what replays it on the current stream.

    The memory that it allocates meanwhile belongs to the graph. Raises CaptureFailed, with torch as it was before, and whatever
    `work` raises where it is not captured.
    """
    import torch

    with torch.cuda.device(device):
        caller = torch.cuda.current_stream()
        side = stream or torch.cuda.Stream()
        raised: list[BaseException] = []
        pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        side.wait_stream(caller)
        with torch.cuda.stream(side):
            for _ in range(warm_ups):
                work()
        caller.wait_stream(side)
        try:
            # thread_local: what other threads do to the device meanwhile (a loader's copies) is not our failure.
            with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
                try:
                    work()
                except BaseException as error:
                    raised.append(error)  # ending a broken capture raises another error, which says less
                    raise
        except BaseException as error:
            torch.cuda.set_stream(caller)  # torch leaves its stream in place when a capture cannot be ended
            _put_right(pool)
            cause = raised[0] if raised else error
            if not isinstance(cause, Exception):  # an interrupt is no failure of the capture
                raise cause from None
            raise CaptureFailed(first_line(cause)) from error
    replay: Callable[[], None] = graph.replay
    return replay


def _put_right(pool: Any) -> None:
    """Undo what a failed capture leaves behind: allocations that still go to its pool, generators that believe they are captured.

    torch ends both with the capture, which fails first where the stream was invalidated; the next capture or random number would
    then raise. Where torch has put itself right, the calls below find nothing to do.
    """
    import torch

    with contextlib.suppress(Exception):
        torch.cuda.synchronize()
    with contextlib.suppress(Exception):
        torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
    with contextlib.suppress(Exception):
        number = torch.zeros(1, device="cuda")
        with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=torch.cuda.Stream(), capture_error_mode="thread_local"):
            number.add_(1)  # a capture that succeeds ends what the generators were told
