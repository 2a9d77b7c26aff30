"""The native core: ops by name, and the runtime behind `aigc_edge.open`."""

from collections.abc import Callable, Sequence
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

class Handle:
    """One open bundle: the C API's ae_handle. `bind(component, inputs, outputs)` returns what evaluates the network on those."""

    def __init__(
        self,
        path: str,
        bind: Callable[[str, dict[str, np.ndarray], dict[str, np.ndarray]], Callable[[int, int], object]] | None,
        *,
        format: str = "",
        threads: int = 1,
        max_batch: int = 0,
        verify: int = 0,
        size: tuple[int, int] | None = None,
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
    def sample(
        self,
        *,
        count: int,
        seed: int,
        seeds: np.ndarray | Sequence[int] | None,
        classes: np.ndarray | Sequence[int] | None,
        negative_classes: np.ndarray | Sequence[int] | None,
        program: str,
        guidance_scale: float | None,
        guidance_rescale: float | None,
        elements: int,
        latents: np.ndarray | None,
        noise: np.ndarray | None,
        mask: np.ndarray | None,
        known: np.ndarray | None,
        known_noise: np.ndarray | None,
        output: int,
        conditions: dict[str, np.ndarray] = ...,
        negative_conditions: dict[str, np.ndarray] = ...,
    ) -> np.ndarray: ...
