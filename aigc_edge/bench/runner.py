"""Runners sample a bundle's network: the native runtime, and peers that evaluate the same network in another loop."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.component import DECODER, DENOISER, Component
from aigc_edge.bundle.manifest import Manifest
from aigc_edge.bundle.spec import ComponentSpec
from aigc_edge.diffusion import Program, build
from aigc_edge.engines.base import ENGINES, EngineSource, shape_of
from aigc_edge.errors import AigcEdgeError
from aigc_edge.registry import Registry
from aigc_edge.runtime.device import choose
from aigc_edge.runtime.programs import named_solver

Classes = Sequence[int] | NDArray[np.int64] | None  # of the images; None: unconditional
Latents = NDArray[np.float32] | None  # unit normals [N, ...]; None: drawn from the seed


@dataclass(frozen=True)
class Workload:
    """What every runner samples. `custom`: the program was requested, it is not the bundle's default."""

    opened: Bundle
    program: Program
    guidance: float
    custom: bool
    threads: int
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def bundle(self) -> str:
        """The path of the bundle."""
        return str(self.opened.path)

    @cached_property
    def manifest(self) -> Manifest:
        """The bundle's manifest at its default size."""
        return self.opened.manifest.at()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample's latents."""
        return tuple(int(side) for side in self.manifest.sample_shape)

    @property
    def solver(self) -> str | None:
        """The solver's name; None for a generator of one evaluation."""
        return str(self.program.meta["solver"]) if self.program.rows else None

    @property
    def steps(self) -> int:
        """Solver steps; 1 for a generator of one evaluation."""
        return int(self.program.meta.get("steps") or self.program.nfe) if self.program.rows else 1

    @property
    def evaluations(self) -> int:
        """How often the network is evaluated; a guided row is one evaluation of a doubled batch."""
        return self.program.nfe or 1

    @property
    def clip(self) -> tuple[float, float] | None:
        """The range that the denoised sample is clipped to, if it is."""
        return self.program.rows[0].clip if self.program.rows else None

    @property
    def classes(self) -> int:
        """The number of classes; 0 when unconditional."""
        return self.manifest.num_classes

    @property
    def guided(self) -> bool:
        """Whether each step evaluates both halves."""
        roles = {tensor.role for tensor in self.spec.inputs}
        guides = (self.classes > 0 or "condition" in roles) and "guidance" not in roles
        return guides and self.guidance != 1.0 and self.solver is not None

    @property
    def network(self) -> Component:
        """The network that is evaluated: the denoiser, or the decoder of a generator of one evaluation."""
        return self.manifest.components[DENOISER if self.solver else DECODER]

    @property
    def spec(self) -> ComponentSpec:
        """What that network takes and returns."""
        return self.network.onnx

    @property
    def conditions(self) -> dict[str, NDArray[np.float32]]:
        """What stands for conditions that no text encoder of the bundle gives: unit normals [1, ...] by name."""
        draw = np.random.default_rng(0)
        encoded = {tensor.name for encoder in self.manifest.text_encoders.values() for tensor in encoder.spec.outputs}
        wanted = [tensor for tensor in self.spec.of_role("condition") if tensor.name not in encoded]
        return {tensor.name: draw.standard_normal(shape_of(tensor, 1), dtype=np.float32) for tensor in wanted}

    def source(self, format: str) -> EngineSource:
        """That network in a format, as an engine loads it."""
        return EngineSource(self.opened, self.network, format, self.manifest.family)

    def to_json(self) -> dict[str, Any]:
        """The workload for another process."""
        value = {name: getattr(self, name) for name in ("bundle", "guidance", "custom", "threads", "device")}
        return value | {"manifest": self.opened.manifest.to_json(), "program": self.program.to_json()}

    @staticmethod
    def from_json(value: dict[str, Any]) -> Workload:
        """The workload of `to_json`."""
        bundle = Bundle(Path(value["bundle"]), Manifest.from_json(value["manifest"]))
        rest = {name: value[name] for name in ("guidance", "custom", "threads", "device")}
        return Workload(bundle, Program.from_json(value["program"]), **rest)

    def labels(self, n: int) -> NDArray[np.int64] | None:
        """Classes for `n` images: each in turn; None when unconditional."""
        return np.arange(n, dtype=np.int64) % self.classes if self.classes else None


def open_workload(
    bundle: str,
    solver: str | None,
    steps: int | None,
    guidance: float | None,
    threads: int,
    device: Literal["cpu", "cuda"] = "cpu",
) -> Workload:
    """The workload for a bundle and the user's choices; what is None comes from its default program.

    Raises BundleError for a path that is not a bundle, and EngineUnavailable for a GPU that is missing.
    """
    opened = Bundle.open(bundle)
    if device == "cuda":
        choose(ENGINES["torch"], device)
    manifest = opened.manifest
    program = manifest.programs[manifest.default_program]
    scale = float(program.guidance_scale if guidance is None else guidance)
    custom = bool(solver or steps)
    if custom:
        if manifest.schedule is None:
            raise AigcEdgeError(f"{bundle} generates in one evaluation: it has no solver and no steps to choose")
        solver, steps = solver or named_solver(manifest), steps or program.meta["steps"]
        program = build(manifest.schedule, str(solver), int(steps), guidance_scale=scale)
    return Workload(opened, program, scale, custom, threads, device)


class Runner(ABC):
    """Samples a workload in one format. `name` and the format are its key: native-fp32."""

    name: ClassVar[str]
    title: ClassVar[str]
    order: ClassVar[int]
    engines: ClassVar[Mapping[str, str]] = {"cpu": "onnxruntime"}  # the engine that it uses on each device
    formats: ClassVar[tuple[str, ...] | None] = None  # None: every format of the bundle

    @classmethod
    def unavailable(cls, workload: Workload) -> str | None:
        """None when this runner can sample the workload here, else the reason."""
        return None

    @abstractmethod
    def __init__(self, workload: Workload, format: str) -> None: ...

    @abstractmethod
    def generate(self, n: int, seed: int, classes: Classes, latents: Latents = None) -> NDArray[np.uint8]:
        """Images uint8 [N, H, W, C] from seeds or, to compare runners, from unit-normal latents [N, ...]."""

    def seconds(self) -> tuple[float, float] | None:
        """Seconds of the last `generate` by its own clock: of its loop, and in the network; None where it cannot tell."""
        return None

    def component_seconds(self) -> dict[str, float]:
        """Seconds of the last `generate` inside each network by component; empty where it cannot tell."""
        return {}

    def close(self) -> None:  # noqa: B027 - most runners hold nothing
        """Give back what is held."""


RUNNERS: Registry[type[Runner]] = Registry("runner", "aigc_edge.bench.runners", "aigc_edge.runners", Runner)


def key(runner: type[Runner], format: str) -> str:
    """The key of a configuration: the runner's name and the format."""
    return f"{runner.name}-{format}"


@contextlib.contextmanager
def opened(workload: Workload, keys: Sequence[str]) -> Iterator[dict[str, Runner]]:
    """The runners of these keys, open at once."""
    runners: dict[str, Runner] = {}
    try:
        for each in keys:
            name, _, format = each.partition("-")
            runners[each] = RUNNERS[name](workload, format)
        yield runners
    finally:
        for runner in runners.values():
            runner.close()


def to_uint8(images: NDArray[Any]) -> NDArray[np.uint8]:
    """float32 [N, C, H, W] in [-1, 1] → uint8 [N, H, W, C], as one would write it."""
    levels = np.rint(np.clip((images + 1) * 127.5, 0, 255)).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(0, 2, 3, 1))
