"""Build targets: the GPU of this machine, or cards that TensorRT-RTX builds for on any machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from aigc_edge import targets as known_targets
from aigc_edge.engines import cuda_driver
from aigc_edge.engines.formats import runs_on
from aigc_edge.engines.plans.module import installed
from aigc_edge.errors import AigcEdgeError, EngineUnavailable
from aigc_edge.targets import Target

AUTO = "auto"
_INSTALL = "pip install tensorrt-rtx-cu13 (GeForce RTX), or use NVIDIA's tensorrt (part of JetPack on a Jetson)"


@dataclass(frozen=True)
class BuildTarget:
    """A target that plans are built for.

    `sm` is the compute capability times ten, `module` the TensorRT module that builds for it, `device` the GPU model that its
    plans are limited to ("": any GPU of the capability).
    """

    name: str
    sm: int
    module: str
    device: str
    target: Target | None

    def runs(self, format: str) -> bool:
        """Whether the target runs the format natively, as far as is known."""
        from aigc_edge.compress.format import FORMATS

        return self.target is None or (format in FORMATS and runs_on(FORMATS[format], self.target))


def build_targets(names: Sequence[str]) -> list[BuildTarget]:
    """The build targets of these names, "auto" being this machine's GPU.

    Raises AigcEdgeError for a target that this machine cannot build plans for.
    """
    by_name: dict[str, BuildTarget] = {}
    for name in names:
        for target in [_this_gpu()] if name == AUTO else map(_named, known_targets.expand([name])):
            by_name.setdefault(target.name, target)
    return list(by_name.values())


def _this_gpu() -> BuildTarget:
    device = cuda_driver.device()
    if device is None:
        raise AigcEdgeError(
            "this machine has no NVIDIA GPU with a driver to build plans for: name RTX cards with --target, whose plans can be "
            "built on any machine, or run aigc-edge build on the device itself"
        )
    modules = installed()
    if not modules:
        raise EngineUnavailable(f"building plans for {device.name} needs TensorRT, which is not installed here: {_INSTALL}")
    gpus = [known_targets.get(name) for name in known_targets.detect("", device.name, device.sm, device.memory / 1e9)]
    name = gpus[0].name if gpus else re.sub(r"[^a-z0-9]+", "-", device.name.lower()).strip("-")
    own = device.name if modules[0] == "tensorrt" else ""  # TensorRT-RTX plans run on every card of a capability
    return BuildTarget(name, device.sm, modules[0], own, gpus[0] if gpus else known_targets.of_gpu("", device.sm))


def _named(target: Target) -> BuildTarget:
    if target.sm is None:
        raise AigcEdgeError(f"the target {target.name} is not a GPU: it needs no plan, its engine loads the ONNX files directly")
    if target.flavour == "tensorrt_rtx" and "tensorrt_rtx" in installed():
        return BuildTarget(target.name, target.sm, "tensorrt_rtx", "", target)
    device = cuda_driver.device()
    if device is not None and device.sm == target.sm and "tensorrt" in installed():
        return BuildTarget(target.name, target.sm, "tensorrt", device.name, target)
    if target.flavour == "tensorrt_rtx":
        raise EngineUnavailable(
            f"building for the target {target.name} needs TensorRT-RTX, which is not installed: pip install tensorrt-rtx-cu13"
        )
    raise AigcEdgeError(
        f"plans for the target {target.name} must be built on the device itself, with NVIDIA's tensorrt: copy the bundle "
        "there and run aigc-edge build"
    )
