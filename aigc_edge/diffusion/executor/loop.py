"""A program prepared for one network and one batch: its buffers stand, and on a CUDA device the whole loop is one graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from aigc_edge.diffusion import noise as noises
from aigc_edge.diffusion.executor import graph as graphs
from aigc_edge.diffusion.executor.execution import Execution
from aigc_edge.diffusion.program import Program
from aigc_edge.errors import ProgramError
from aigc_edge.ops import randn

LONGEST = 500  # rows: a graph holds every kernel of every row, a few kilobytes each
AGREE = 1e-2  # relative L2 of a replay to the same loop run row by row: far above rounding, far below another result


class Loop:
    """What `aigc_edge.diffusion.prepare` returns: call it with latents [N, ...], get samples float32 [N, ...].

    `captured` says whether the last run (before the first: the next one) is one CUDA graph, `reason` why it is not. A loop is for
    one thread at a time.
    """

    def __init__(self, execution: Execution, network: Callable[..., Any], graph: bool | str) -> None:
        if graph not in ("auto", True, False):
            raise ProgramError(f"graph is {graph!r}: it must be 'auto', True or False")
        self._execution, self._network, self._must = execution, network, graph is True
        self._replays: dict[bool, Callable[[], None]] = {}  # by whether the kernels draw the noise: given noise is read instead
        self._never = "graph=False was given" if graph is False else self._impossible()
        if self._never is None:
            with execution.arrays.no_gradient():
                self._capture(True, noises.PHILOX)
        self.captured, self.reason = self._never is None, self._never
        self._insist()

    @property
    def program(self) -> Program:
        """The program, with the guidance that its kernels have."""
        return self._execution.program

    def __call__(
        self,
        latents: Any,
        *,
        seeds: Any = None,
        noise: str | Any = noises.PHILOX,
        conditions: Mapping[str, Any] | None = None,
        negative: Mapping[str, Any] | None = None,
        mask: Any = None,
        known: Any = None,
        known_noise: Any = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Any:
        """Copy what is given into the buffers, run all rows and return the samples, float32 [N, ...], in memory of their own.

        Latents, seeds, noise and `known_noise` are as in `aigc_edge.diffusion.sample`; conditions, negative ones, mask and known
        that are None stay as they were. With `progress` the rows run one by one, not as a graph. Raises ProgramError for what
        does not fit, and AigcEdgeError for a value that is not finite, with its row and sample.
        """
        execution = self._execution
        drawn = not execution.program.draws or (isinstance(noise, str) and noise == noises.PHILOX)
        with execution.arrays.no_gradient():
            execution.give(conditions, negative, mask, known)
            execution.start(latents, seeds, noise, known_noise)
            if self._never is None and progress is None and drawn not in self._replays:
                self._capture(drawn, noise)
                execution.start(latents, seeds, noise, known_noise)
            self.reason = self._never or (None if progress is None else "progress was asked for, which is told between rows")
            self.captured = self.reason is None
            self._insist()
            if self.captured:
                self._replays[drawn]()
            else:
                execution.run(self._network, progress)
            execution.check()
        return execution.arrays.copy(execution.sample)

    def _impossible(self) -> str | None:
        """Why a graph is not even tried."""
        rows, limit = len(self.program.rows), getattr(self._network, "uncapturable", None)
        if reason := graphs.unavailable(self._execution.arrays.device):
            return reason
        if rows > LONGEST:
            return f"the program has {rows} rows, and a graph of more than {LONGEST} takes too much memory"
        return limit(self._execution.largest_batch) if callable(limit) else None

    def _insist(self) -> None:
        if self._must and self.reason is not None:
            raise ProgramError(f"the loop cannot be one CUDA graph, as graph=True wants: {self.reason}")

    def _capture(self, drawn: bool, source: str | Any) -> None:
        """Capture the loop with noise that the kernels draw, or that is given like `source`; a failure stands in `_never`."""
        execution, arrays = self._execution, self._execution.arrays
        seeds = np.arange(execution.shape[0], dtype=np.uint64)
        latents = arrays.empty(execution.shape)
        randn(arrays.give(seeds), 0, arrays.planes(latents, (len(seeds), -1), False))

        def run() -> None:
            execution.run(self._network)

        def result(work: Callable[[], None]) -> Any:
            execution.start(latents, seeds, source)
            work()
            return arrays.copy(execution.sample)

        execution.start(latents, seeds, source)
        try:
            replay = graphs.capture(run, arrays.device)
            wanted, found = result(run), result(replay)
            size, difference = float(wanted.norm()), float((found - wanted).norm())
            if np.isfinite(size) and not difference <= AGREE * size:
                raise graphs.CaptureFailed(
                    "its replay differs from a run: it keeps a state outside its tensors, or works on a stream of its own"
                )
        except graphs.CaptureFailed as error:
            self._never = f"the network cannot be captured ({error})"
        else:
            self._replays[drawn] = replay
