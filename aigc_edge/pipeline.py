"""Open a bundle and draw samples from it: a thin layer over the C API (`csrc/include/aigc_edge/aigc_edge.h`)."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aigc_edge import _core
from aigc_edge.diffusion import SOLVERS, build
from aigc_edge.engines.base import Buffers, Engine, EngineSource, physical_cores, require
from aigc_edge.errors import AigcEdgeError, BundleError
from aigc_edge.spec import ComponentSpec

Progress = Callable[[int, int], None]
Verify = Literal["used", "all", "none"]
_VERIFY: dict[str, int] = {"used": 0, "all": 1, "none": 2}
_OUTPUT = {"uint8": 0, "float32": 1}
FLOAT32_MAX = 3.4028234e38


class Pipeline:
    """An open bundle; see `aigc_edge.open`. Safe to share between threads: calls of `sample` run one after the other."""

    def __init__(
        self, path: str | os.PathLike[str], *, engine: str, format: str | None, threads: int | None, verify: Verify
    ) -> None:
        if verify not in _VERIFY:
            raise AigcEdgeError(f"verify is {verify!r}: it must be one of {', '.join(_VERIFY)}")
        if threads is not None and threads < 1:
            raise AigcEdgeError(f"threads is {threads}: it must be at least 1")
        self.path = Path(path)
        self.threads = threads or physical_cores()
        kind = require(engine)
        self._lock = threading.Lock()
        self._engines: dict[str, Engine] = {}
        self._progress: Progress | None = None
        self._built: set[str] = set()  # programs that the handle has beside the bundle's own
        self._handle = _core.Handle(
            os.fspath(path), self._bind, format=format or "", threads=self.threads, verify=_VERIFY[verify]
        )
        self.manifest: dict[str, Any] = json.loads(self._handle.manifest)
        self._shape = tuple(int(size) for size in self.manifest["sample_shape"])
        self.engine = engine
        self.format = format or str(self.manifest["default_format"])
        for name, component in self.manifest["components"].items():
            spec = ComponentSpec.from_json(name, component)
            source = EngineSource(self.path, component, spec, self.format, self.manifest["family"])
            self._engines[name] = kind.load(source, threads=self.threads)

    def _bind(self, component: str, inputs: Buffers, outputs: Buffers) -> Callable[[int, int], None]:
        run = self._engines[component].bind(inputs, outputs)

        def call(row: int, num_rows: int) -> None:
            run()
            if self._progress is not None:
                self._progress(row, num_rows)

        return call

    @property
    def programs(self) -> list[str]:
        """The names of the programs in the bundle; the first is the default."""
        default = str(self.manifest["default_program"])
        return [default, *sorted(set(self.manifest["programs"]) - {default})]

    @property
    def stats(self) -> dict[str, float]:
        """Of the last `sample`: evaluations (count), total_seconds (wall clock) and network_seconds (inside the engine)."""
        return dict(self._handle.statistics)

    def sample(
        self,
        n: int = 1,
        *,
        seed: int = 0,
        seeds: Sequence[int] | NDArray[np.uint64] | None = None,
        classes: int | Sequence[int] | NDArray[np.integer[Any]] | None = None,
        program: str | None = None,
        solver: str | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        latents: NDArray[np.float32] | None = None,
        output: Literal["uint8", "float32"] = "uint8",
        progress: Progress | None = None,
    ) -> NDArray[Any]:
        """Draw `n` samples: uint8 [N, H, W, C], or float32 [N, C, H, W] in the bundle's output range (not clamped).

        Sample i is drawn from `seed` + i, or from `seeds`[i] (whole numbers from 0 to 2^64 - 1), and does not depend on the
        others. `classes` are class indices, one for all or one each; -1 is unconditional; None draws them from the seeds.
        `program` names one of `programs`; `solver` and `steps` build another one from the bundle's schedule. `guidance_scale` is
        the CFG scale (1: no guidance). `latents`, float32 [N, *sample_shape] of unit normals, replace the noise of the seeds.
        `progress(row, rows)` is called after each network evaluation. Raises AigcEdgeError for what is not allowed.
        """
        if output not in _OUTPUT:
            raise AigcEdgeError(f"output is {output!r}: it must be one of {', '.join(_OUTPUT)}")
        if latents is not None and np.shape(latents) != (n, *self._shape):
            raise AigcEdgeError(f"latents have the shape {list(np.shape(latents))}: they must have {[n, *self._shape]}")
        if guidance_scale is not None and not abs(guidance_scale) <= FLOAT32_MAX:
            raise AigcEdgeError(f"the guidance scale is {guidance_scale}: it must be a finite number; 1 means no guidance")
        with self._lock:
            self._progress = progress
            images = self._handle.sample(
                count=_integer("n", n, 1, 2**31 - 1),
                seed=_integer("seed", seed, 0, 2**64 - 1),
                seeds=None if seeds is None else _integers("seeds", seeds, n, 0, 2**64 - 1).astype(np.uint64),
                classes=None if classes is None else self._classes(classes, n),
                program=self._program(program, solver, steps),
                guidance_scale=guidance_scale,
                latents=None if latents is None else np.ascontiguousarray(latents, dtype=np.float32),
                latent_elements=math.prod(self._shape),
                output=_OUTPUT[output],
            )
        return np.asarray(images)

    def _classes(self, classes: int | Sequence[int] | NDArray[np.integer[Any]], n: int) -> NDArray[np.int32]:
        if not self.manifest.get("classes"):
            raise AigcEdgeError(f"{self.path} is unconditional: leave the class out")
        last = int(self.manifest["classes"]["count"]) - 1
        each = [classes] * n if isinstance(classes, int) else classes
        return _integers("classes", each, n, -1, last).astype(np.int32)

    def _program(self, program: str | None, solver: str | None, steps: int | None) -> str:
        if solver is None and steps is None:
            return program or ""
        if program is not None:
            raise AigcEdgeError(f"program {program!r} was given together with a solver or steps: give one or the other")
        schedule = self.manifest.get("schedule")
        if schedule is None:
            raise AigcEdgeError(f"{self.path} generates in one evaluation: it has no solver and no steps to choose")
        default = self.manifest["programs"][self.manifest["default_program"]]
        solver = solver or named_solver(self.manifest)
        steps = int(default["meta"]["steps"]) if steps is None else steps
        name = f"custom {solver}-{steps}"  # a name that no bundle uses: a program of the bundle must not be replaced
        if name not in self._built:
            built = build(schedule, solver, steps, guidance_scale=float(default["guidance_scale"])).to_json()
            self._handle.add_program(json.dumps(built | {"name": name}))
            self._built.add(name)
        return name

    def close(self) -> None:
        """Give back the networks and buffers; further calls say that the bundle was closed."""
        with self._lock:
            self._handle.close()
            for engine in self._engines.values():
                engine.close()
            self._engines.clear()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open(
    path: str | os.PathLike[str],
    *,
    engine: str = "onnxruntime",
    format: str | None = None,
    threads: int | None = None,
    verify: Verify = "used",
) -> Pipeline:
    """Open a bundle (a folder, or one file) for sampling.

    `engine` evaluates the networks; `format` chooses among the bundle's formats (None: its default); `threads` is the number of
    CPU threads (None: the physical cores); `verify` says which files are hashed: those "used", "all" or "none". Raises
    BundleError when the bundle cannot be trusted, EngineUnavailable when the engine is not installed or cannot run here.
    """
    if not Path(path).exists():
        raise BundleError(f"there is no bundle at {os.fspath(path)}: give the folder or file that `aigc-edge compile` wrote")
    return Pipeline(path, engine=engine, format=format, threads=threads, verify=verify)


def named_solver(manifest: Mapping[str, Any]) -> str:
    """The solver of the default program, to be built with other steps; raises AigcEdgeError for a tuned or an imported one."""
    name = manifest["default_program"]
    solver = str(manifest["programs"][name]["meta"].get("solver"))
    if solver not in SOLVERS:
        raise AigcEdgeError(f"the default program {name!r} is made for its own number of steps: give a solver with the steps")
    return solver


def _integer(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise AigcEdgeError(f"{name} is {value!r}: it must be a whole number from {low} to {high}")
    return int(value)


def _integers(name: str, values: Any, n: int, low: int, high: int) -> NDArray[np.object_]:
    array = np.asarray(values, dtype=object).reshape(-1)
    if array.size != n:
        raise AigcEdgeError(f"{name} holds {array.size} values: it must hold one for each of the {n} samples")
    for value in array:
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
            raise AigcEdgeError(f"{name} holds {value!r}: each must be a whole number from {low} to {high}")
    return array
