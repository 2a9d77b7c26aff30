"""Schedule constants for samplers outside the native runtime: calibration and the benchmark's peers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.component import SCHEDULE, Component
from aigc_edge.bundle.storage import Files
from aigc_edge.engines.base import ENGINES, Engine, EngineSource


def schedule_source(files: Files, schedule: Component) -> EngineSource:
    """The schedule of a bundle: in one format, float32 unless the bundle's networks are all smaller."""
    (format,) = schedule.formats
    return EngineSource(files, schedule, format)


class Constants:
    """The schedule of a bundle evaluated at batch 1, bit-identical to the runtime; results are cached."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._timestep = engine.spec.inputs[0].name
        self._cache: dict[float, dict[str, NDArray[np.float32]]] = {}

    @staticmethod
    def load(files: Files, schedule: Component | None, *, engine: str = "onnxruntime") -> Constants | None:
        """The constants of the bundle with these files; None when its networks take none, so that there is no `schedule`."""
        return None if schedule is None else Constants(ENGINES[engine].load(schedule_source(files, schedule), threads=1))

    @staticmethod
    def of(bundle: Bundle) -> Constants | None:
        """The constants of a bundle; None when its networks take none."""
        return Constants.load(bundle, bundle.manifest.components.get(SCHEDULE))

    @property
    def names(self) -> list[str]:
        """Names of the constants, in the order of the schedule's outputs."""
        return [tensor.name for tensor in self._engine.spec.outputs]

    def __call__(self, timestep: float) -> dict[str, NDArray[np.float32]]:
        """All constants by name, float32 [1, ...], at a timestep (rounded to float32)."""
        key = float(np.float32(timestep))
        if key not in self._cache:
            self._cache[key] = self._engine.evaluate({self._timestep: np.array([key], np.float32)})
        return self._cache[key]

    def table(self, timesteps: Iterable[float]) -> tuple[bytes, list[float]]:
        """The bundle's table of constants as bytes, float32 [timesteps, floats per row], and its timesteps in ascending order."""
        times = sorted({float(np.float32(t)) for t in timesteps})
        rows = [np.concatenate([constants[name].ravel() for name in self.names]) for constants in map(self, times)]
        return b"".join(row.astype("<f4").tobytes() for row in rows), times
