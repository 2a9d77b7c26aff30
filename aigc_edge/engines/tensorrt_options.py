"""Options of a TensorRT build, and which of the two modules takes which of them where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aigc_edge.config import from_dict, option, to_dict
from aigc_edge.errors import AigcEdgeError
from aigc_edge.targets import Target

# The words of users → the enumerators of HardwareCompatibilityLevel.
LEVELS = {"none": "NONE", "ampere+": "AMPERE_PLUS", "same_sm": "SAME_COMPUTE_CAPABILITY"}
_FLAGS = {
    "version_compatible": "VERSION_COMPATIBLE",
    "refit": "REFIT",
    "strip": "STRIP_PLAN",
    "weight_streaming": "WEIGHT_STREAMING",
}
_RTX_NEVER = {
    "version_compatible": "TensorRT-RTX has no lean runtime, which version-compatible plans carry",
    "hardware_compatibility": "TensorRT-RTX does not take it; one plan serves all cards of one capability as it is",
}
_RTX_DRIVER = ("refit", "strip")


@dataclass(frozen=True)
class BuildOptions:
    """How a plan is built beyond its network, its device and its batches."""

    version_compatible: bool = option(
        False, "later versions of TensorRT load the plan too, where AIGC_EDGE_PLAN_HOST_CODE=1 allows it"
    )
    hardware_compatibility: str = option("none", "other GPUs load the plan too", choices=tuple(LEVELS))
    refit: bool = option(False, "weights can be exchanged in the finished plan")
    strip: bool = option(False, "leave the weights out of the plan: they are put in by refitting")
    weight_streaming: bool = option(False, "weights may stay in host memory where the GPU's is too small")
    workspace_gb: float | None = option(None, "GPU memory that kernels may use beside weights (None: all there is)", above=0)
    timing_cache: bool = option(True, "keep the measured times of kernels for the next build (not of TensorRT-RTX)")

    @staticmethod
    def parse(values: Mapping[str, Any]) -> BuildOptions:
        """The options with these values; raises AigcEdgeError that lists the names or values there are."""
        return from_dict(BuildOptions, dict(values), "build option")

    @property
    def asked(self) -> dict[str, Any]:
        """The options that differ from how a plan is built anyway."""
        plain = to_dict(BuildOptions())
        return {name: value for name, value in to_dict(self).items() if value != plain[name]}


def check_options(options: BuildOptions, module: str, target: Target | None, *, driver: bool) -> None:
    """Raise AigcEdgeError for an option that `module` or `target` does not take; `driver`: there is an NVIDIA driver here."""
    for name in options.asked:
        reason = None if target is None else target.without.get(name)
        if module == "tensorrt_rtx":
            reason = reason or _RTX_NEVER.get(name)
            if name in _RTX_DRIVER and not driver:
                reason = reason or "TensorRT-RTX needs an NVIDIA driver for it, and this machine has none"
        if reason:
            place = "" if target is None else f" for {target.name}"
            raise AigcEdgeError(f"the build option {name} cannot be had{place}: {reason}; leave it out")


def apply(trt: Any, config: Any, options: BuildOptions, what: str) -> None:
    """Set the options in a builder's config; raises AigcEdgeError, beginning with `what`, for one that this version lacks."""
    for name in options.asked:
        if name in _FLAGS:
            flag = getattr(trt.BuilderFlag, _FLAGS[name], None)
            if flag is None:
                raise AigcEdgeError(f"{what} with {name}: this version has no such option; leave it out")
            config.set_flag(flag)
    if options.hardware_compatibility != "none":
        level = getattr(trt.HardwareCompatibilityLevel, LEVELS[options.hardware_compatibility], None)
        if level is None:
            have = ", ".join(word for word, name in LEVELS.items() if hasattr(trt.HardwareCompatibilityLevel, name))
            given = f"hardware_compatibility={options.hardware_compatibility}"
            raise AigcEdgeError(f"{what} with {given}: this version has {have}; choose one of them")
        config.hardware_compatibility_level = level
    if options.workspace_gb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace_gb * 2**30))
