"""What plans are built for: the GPU of this machine, or cards that TensorRT-RTX builds for on any machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from aigc_edge import targets as known_targets
from aigc_edge.engines import cuda_driver
from aigc_edge.engines.formats import runs_on
from aigc_edge.engines.tensorrt_module import installed
from aigc_edge.errors import AigcEdgeError, EngineUnavailable
from aigc_edge.targets import Target

AUTO = "auto"
_INSTALL = "pip install tensorrt-rtx-cu13 (GeForce RTX), or use NVIDIA's tensorrt (part of JetPack on a Jetson)"


@dataclass(frozen=True)
class BuildTarget:
    """One target by name, its compute capability times ten, the TensorRT module that builds for it, and the model of GPU that its
    plans are limited to ("": none)."""

    name: str
    sm: int
    module: str
    device: str
    target: Target | None

    def runs(self, format: str) -> bool:
        """Whether the format runs as such there, as far as is known."""
        from aigc_edge.compress.format import FORMATS

        return self.target is None or (format in FORMATS and runs_on(FORMATS[format], self.target))


def build_targets(names: Sequence[str]) -> list[BuildTarget]:
    """The build targets of these names, "auto" being this machine's GPU; raises AigcEdgeError for one that no plan can be built
    for here."""
    found: dict[str, BuildTarget] = {}
    for name in names:
        for target in [_this_gpu()] if name == AUTO else map(_named, known_targets.expand([name])):
            found.setdefault(target.name, target)
    return list(found.values())


def _this_gpu() -> BuildTarget:
    device = cuda_driver.device()
    if device is None:
        raise AigcEdgeError(
            "this machine has no NVIDIA GPU with a driver to build plans for: name cards of the RTX series with --target, whose "
            "plans are built anywhere, or run aigc-edge build on the device itself"
        )
    modules = installed()
    if not modules:
        raise EngineUnavailable(f"building plans for {device.name} needs TensorRT, which is not installed here: {_INSTALL}")
    gpus = [known_targets.get(name) for name in known_targets.detect("", device.name, device.sm, device.memory / 1e9)]
    name = gpus[0].name if gpus else re.sub(r"[^a-z0-9]+", "-", device.name.lower()).strip("-")
    own = device.name if modules[0] == "tensorrt" else ""  # plans of TensorRT-RTX are for every card of a capability
    return BuildTarget(name, device.sm, modules[0], own, gpus[0] if gpus else known_targets.of_gpu("", device.sm))


def _named(target: Target) -> BuildTarget:
    if target.sm is None:
        raise AigcEdgeError(f"the target {target.name} is no GPU: it needs no plan, its engine loads the ONNX files as they are")
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
        f"plans for the target {target.name} are built on the device itself, with NVIDIA's tensorrt: copy the bundle "
        "there and run aigc-edge build"
    )
