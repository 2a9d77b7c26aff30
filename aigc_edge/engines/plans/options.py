"""Options of a TensorRT build, and which module and target supports each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aigc_edge.config import from_dict, option, to_dict
from aigc_edge.errors import AigcEdgeError
from aigc_edge.targets import Target

# Option value → enumerator of HardwareCompatibilityLevel.
LEVELS = {"none": "NONE", "ampere+": "AMPERE_PLUS", "same_sm": "SAME_COMPUTE_CAPABILITY"}
_FLAGS = {
    "version_compatible": "VERSION_COMPATIBLE",
    "refit": "REFIT",
    "strip": "STRIP_PLAN",
    "weight_streaming": "WEIGHT_STREAMING",
}
_RTX_NEVER = {
    "version_compatible": "TensorRT-RTX has no lean runtime, which version-compatible plans include",
    "hardware_compatibility": "TensorRT-RTX does not support it; one plan already serves all GPUs of one compute capability",
}
_RTX_DRIVER = ("refit", "strip")


@dataclass(frozen=True)
class BuildOptions:
    """Build options of a plan besides its network, device and batches."""

    version_compatible: bool = option(
        False, "later versions of TensorRT can load the plan, where AIGC_EDGE_PLAN_HOST_CODE=1 allows it"
    )
    hardware_compatibility: str = option("none", "other GPUs can load the plan", choices=tuple(LEVELS))
    refit: bool = option(False, "weights can be replaced in the built plan")
    strip: bool = option(False, "leave the weights out of the plan; they are added by refitting")
    weight_streaming: bool = option(False, "weights may stay in host memory where GPU memory is too small")
    workspace_gb: float | None = option(None, "GPU memory for kernels besides the weights (None: no limit)", above=0)
    timing_cache: bool = option(True, "reuse measured kernel times in later builds (full TensorRT only)")

    @staticmethod
    def parse(values: Mapping[str, Any]) -> BuildOptions:
        """The options with these values; raises AigcEdgeError that lists the allowed names or values."""
        return from_dict(BuildOptions, dict(values), "build option")

    @property
    def non_default(self) -> dict[str, Any]:
        """The options whose values differ from the defaults."""
        defaults = to_dict(BuildOptions())
        return {name: value for name, value in to_dict(self).items() if value != defaults[name]}


def check_options(options: BuildOptions, module: str, target: Target | None, *, driver: bool) -> None:
    """Raise AigcEdgeError for an option that `module` or `target` does not support; `driver`: an NVIDIA driver is installed."""
    for name in options.non_default:
        reason = None if target is None else target.without.get(name)
        if module == "tensorrt_rtx":
            reason = reason or _RTX_NEVER.get(name)
            if name in _RTX_DRIVER and not driver:
                reason = reason or "TensorRT-RTX needs an NVIDIA driver for it, which this machine lacks"
        if reason:
            where = "" if target is None else f" for {target.name}"
            raise AigcEdgeError(f"the build option {name} is not available{where}: {reason}; leave it out")


def apply(trt: Any, config: Any, options: BuildOptions, what: str) -> None:
    """Set the options in a builder's config; raises AigcEdgeError, beginning with `what`, for one that this version lacks."""
    for name in options.non_default:
        if name in _FLAGS:
            flag = getattr(trt.BuilderFlag, _FLAGS[name], None)
            if flag is None:
                raise AigcEdgeError(f"{what} with {name}: this version has no such option; leave it out")
            config.set_flag(flag)
    if options.hardware_compatibility != "none":
        level = getattr(trt.HardwareCompatibilityLevel, LEVELS[options.hardware_compatibility], None)
        if level is None:
            levels = ", ".join(word for word, name in LEVELS.items() if hasattr(trt.HardwareCompatibilityLevel, name))
            value = f"hardware_compatibility={options.hardware_compatibility}"
            raise AigcEdgeError(f"{what} with {value}: this version has {levels}; choose one of them")
        config.hardware_compatibility_level = level
    if options.workspace_gb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace_gb * 2**30))
