"""One device that a bundle can be compiled for, parsed from its JSON file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aigc_edge import config
from aigc_edge.errors import AigcEdgeError
from aigc_edge.targets.clocks import Clocks

KINDS = ("cpu", "gpu", "npu", "group")
TENSORRT = "tensorrt"  # the engine
FLAVOURS = ("tensorrt_rtx", "tensorrt")
RATES = ("fp32", "fp16", "bf16", "int8", "fp8", "fp4")


@dataclass(frozen=True)
class Target:
    """One device that bundles are compiled for, or a group of them, which has `members` and nothing else.

    Only facts about the device are stated; the formats that it runs follow from `engine`, the name of the engine that bundles are
    compiled for, and `sm`, the CUDA compute capability times ten (`engines.formats.formats_of`). Memory is in GB, bandwidth in
    GB/s, `tops` dense T(FL)OP/s by arithmetic, all as stated by the manufacturer; `figures` names the board and the source.

    For the engine "tensorrt", `flavour` is the TensorRT that supports it: "tensorrt_rtx" builds a plan anywhere, "tensorrt" only
    on the device itself; `least` and `most` are the first version that supports it and the newest one tested (None: unknown),
    `without` the build options that the device does not take, with the reason.
    """

    name: str
    title: str
    kind: str
    engine: str = ""
    sm: int | None = None
    memory_gb: float | None = None
    bandwidth_gbs: float | None = None
    tops: Mapping[str, float] | None = field(default=None, hash=False)
    figures: str = ""
    flavour: str | None = None
    least: str | None = None
    most: str | None = None
    without: Mapping[str, str] = field(default_factory=dict, hash=False)
    clocks: Clocks = field(default_factory=Clocks)
    members: tuple[str, ...] = ()

    @staticmethod
    def from_json(value: dict[str, Any]) -> Target:
        """Parse one target; raises AigcEdgeError that names what is wrong with it."""
        fields = dict(value)
        tensorrt = dict(fields.pop("tensorrt", None) or {})
        fields["members"] = tuple(fields.get("members") or ())
        try:
            fields["clocks"] = config.from_dict(Clocks, fields.get("clocks") or {}, "clocks")
            target = Target(**fields, **tensorrt)
        except TypeError as error:
            raise AigcEdgeError(f"target {value.get('name')!r} is malformed ({error}): its fields are those of Target") from None
        except AigcEdgeError as error:
            raise AigcEdgeError(f"target {value.get('name')!r} is malformed: {error}") from None
        wrong = _problem(target)
        if wrong:
            raise AigcEdgeError(f"target {target.name!r} is malformed: {wrong}")
        return target


def _problem(target: Target) -> str | None:
    if target.kind not in KINDS:
        return f"kind is {target.kind!r}, it must be one of {', '.join(KINDS)}"
    if (target.kind == "group") != bool(target.members):
        return "a group has members, and only a group"
    if (target.kind == "group") == bool(target.engine):
        return "a device names its engine, and a group does not"
    if target.engine == TENSORRT and (not isinstance(target.sm, int) or target.flavour not in FLAVOURS):
        return f"a target of the engine tensorrt has sm and a tensorrt flavour ({', '.join(FLAVOURS)})"
    if target.kind != "gpu" and target.sm is not None:
        return "only a gpu has sm"
    if target.engine != TENSORRT and target.flavour is not None:
        return "only a target of the engine tensorrt has a tensorrt flavour"
    if target.tops is not None and (set(target.tops) - set(RATES) or not all(rate > 0 for rate in target.tops.values())):
        return f"tops are positive, of {', '.join(RATES)}"
    if bool(target.tops) != bool(target.figures):
        return "figures say where tops are from, and only then"
    return None
