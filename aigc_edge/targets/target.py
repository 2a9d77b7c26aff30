"""One device that a bundle can be compiled for, as its JSON file says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aigc_edge.errors import AigcEdgeError
from aigc_edge.targets.clocks import Clocks
from aigc_edge.targets.limit import Limit

KINDS = ("cpu", "gpu", "group")
FLAVOURS = ("tensorrt_rtx", "tensorrt")
RATES = ("fp32", "fp16", "bf16", "int8", "fp8", "fp4")


@dataclass(frozen=True)
class Target:
    """One device: `sm` is its CUDA compute capability times ten, `precisions` the formats that its engine runs as such.

    `flavour` says which TensorRT serves it: "tensorrt_rtx" builds a plan anywhere, "tensorrt" on the device itself only; `least`
    and `most` are the first version that does and the newest that was looked at (None: unknown). Memory is in GB, bandwidth in
    GB/s, `tops` dense T(FL)OP/s by arithmetic, all the maker's figures; `figures` says of which board and whence. `limits` are
    what it cannot do of `precisions` and below, `without` the options of a build that it does not take, with the reason. A group
    has `members` and nothing else.
    """

    name: str
    title: str
    kind: str
    sm: int | None = None
    memory_gb: float | None = None
    bandwidth_gbs: float | None = None
    tops: Mapping[str, float] | None = field(default=None, hash=False)
    figures: str = ""
    precisions: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
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
        for key in ("precisions", "members"):
            fields[key] = tuple(fields.get(key) or ())
        try:
            fields["limits"] = tuple(map(Limit.from_json, fields.get("limits") or ()))
            fields["clocks"] = Clocks.from_json(fields.get("clocks") or {})
            target = Target(**fields, **tensorrt)
        except TypeError as error:
            raise AigcEdgeError(f"target {value.get('name')!r} is malformed ({error}): its fields are those of Target") from None
        except AigcEdgeError as error:
            raise AigcEdgeError(f"target {value.get('name')!r} is malformed: {error}") from None
        wrong = _problem(target)
        if wrong:
            raise AigcEdgeError(f"target {target.name!r} is malformed: {wrong}")
        return target

    def limit(self, format: str, operator: str, module: str | None = None) -> Limit | None:
        """What limits `operator` in `format` here, built by `module` (None: the target's own); None when nothing does."""
        by = module or self.flavour
        return next((x for x in self.limits if x.covers(format, operator) and x.module in (None, by)), None)


def _problem(target: Target) -> str | None:
    if target.kind not in KINDS:
        return f"kind is {target.kind!r}, it must be one of {', '.join(KINDS)}"
    if (target.kind == "group") != bool(target.members):
        return "a group has members, and only a group"
    if target.kind == "gpu" and (not isinstance(target.sm, int) or target.flavour not in FLAVOURS):
        return f"a gpu has sm and a tensorrt flavour ({', '.join(FLAVOURS)})"
    if target.kind != "gpu" and (target.sm is not None or target.flavour is not None or target.limits):
        return "only a gpu has sm, limits and a tensorrt flavour"
    if target.kind != "group" and not target.precisions:
        return "precisions is empty"
    if target.tops is not None and (set(target.tops) - set(RATES) or not all(rate > 0 for rate in target.tops.values())):
        return f"tops are positive, of {', '.join(RATES)}"
    if bool(target.tops) != bool(target.figures):
        return "figures say where tops are from, and only then"
    return None
