"""The native core: ops by name, and the runtime behind `aigc_edge.open`."""

from collections.abc import Callable
from typing import Any

import numpy as np

__version__: str

def ops() -> dict[str, dict[str, tuple[Any, ...]]]:
    """Name of every native op → its parameters: name → (type,) or (type, default)."""

def op(name: str) -> Callable[..., None]:
    """The native op of that name, as a function."""

def cuda_unavailable() -> str:
    """Empty when CUDA kernels can run here, else why not."""

def cuda_architectures() -> str:
    """What the CUDA kernels were compiled for, such as "75,80,86"; empty without CUDA."""

def isas() -> list[str]:
    """CPU instruction sets that can be used here, best last."""

def isa() -> str:
    """The CPU instruction set in use."""

def set_isa(name: str) -> None:
    """Use another CPU instruction set; for tests and measurements."""

def threads() -> int:
    """The most threads that an op called from Python uses."""

def set_threads(count: int) -> None: ...

class Rows:
    """The steps of a sampling program (`Program.to_json`) around any network: what runs between the network evaluations.

    N samples of E elements, S slots; tensors are NumPy arrays or torch tensors, all on one device, and are kept. Raises
    AigcEdgeError, with the name of the argument, for what does not fit.
    """

    def __init__(self, program: dict[str, Any]) -> None: ...
    @property
    def halves(self) -> list[int]:
        """For each row the batches of N samples that its network evaluation takes: 1, or 2 (conditional first) with guidance."""

    def bind(
        self,
        *,
        slots: Any,
        net_input: Any,
        seeds: Any,
        nonfinite: Any,
        mask: Any = None,
        known: Any = None,
        known_noise: Any = None,
        channels: int = 0,
    ) -> None:
        """Prepare the steps for these buffers; `noise` is None afterwards.

        slots float32 [S, N, E]: the solver's state, slot 0 the sample. net_input [max(halves), N, E], float32, float16 or
        bfloat16: what the network takes, its channels last with `channels` > 0. seeds uint64 [N]. nonfinite int32 [N]: 0 becomes
        r where a sample is not finite in step r. Where mask float32 [N, E] is 0, the sample is known float32 [N, E], brought to
        the noise level of each row with known_noise float32 [N, E].
        """

    noise: Any
    """What the rows add, float32 [draws, N, E] in the order of `Program.draws`; None: drawn from the seeds."""

    def run(self, step: int, output: Any = None) -> None:
        """End row `step` - 1 with the network's `output` [halves, N, E], if there is one, and write the next row's input.

        Step 0 takes unit normal noise in slot 0; after the last step slot 0 is the sample. On the framework's current stream.
        """

class Handle:
    """One open bundle: the C API's ae_handle. `bind(component, inputs, outputs)` returns what evaluates the network on those.

    Device 1 is the current GPU; tensors there come as dictionaries like __cuda_array_interface__. `stream` is a cudaStream_t (0:
    one of its own), `capture(work, batch)` returns what replays all that `work()` queues, or why it cannot be captured.
    """

    def __init__(
        self,
        path: str | bytes,
        bind: Callable[[str, dict[str, Any], dict[str, Any]], Callable[[int, int], object]] | None,
        *,
        format: str = "",
        threads: int = 1,
        max_batch: int = 0,
        verify: int = 0,
        size: tuple[int, int] | None = None,
        tile: tuple[int, int] | None = None,
        denoising_tile: tuple[int, int] | None = None,
        overlap: int | None = None,
        device: int = 0,
        stream: int = 0,
        capture: Callable[[Callable[[], None], int], Callable[[], None] | str] | None = None,
    ) -> None: ...
    @property
    def manifest(self) -> str: ...
    @property
    def statistics(self) -> dict[str, Any]: ...
    def close(self) -> None: ...
    def file(self, name: str) -> bytes: ...
    def verify(self, name: str) -> None:
        """Check a file of the bundle as `file` does, without a copy of it."""

    def add_program(self, json: str) -> None: ...
    def check(self, request: object, elements: int) -> None:
        """Refuse a request that `sample` would refuse, without sampling."""

    def sample(self, request: object, elements: int, row_by_row: bool = False) -> np.ndarray:
        """Run a request whose attributes have the names of `ae_sample_options`, for samples of so many elements.

        Returns uint8 [N, H, W, C] or float32 [N, C, H, W].
        """
