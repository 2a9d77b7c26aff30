"""Targets: the devices that a bundle can be compiled for. One small JSON a device; nobody edits a list."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aigc_edge.errors import AigcEdgeError

KINDS = ("cpu", "gpu", "group")
FLAVOURS = ("tensorrt_rtx", "tensorrt")


@dataclass(frozen=True)
class Target:
    """One device: `sm` is its CUDA compute capability times ten, `precisions` the formats that its engine runs as such.

    `flavour` says which TensorRT serves it: "tensorrt_rtx" builds a plan anywhere, "tensorrt" on the device itself only.
    Memory is in GB, bandwidth in GB/s, both the maker's figures. A group has `members` and nothing else.
    """

    name: str
    title: str
    kind: str
    sm: int | None = None
    memory_gb: float | None = None
    bandwidth_gbs: float | None = None
    precisions: tuple[str, ...] = ()
    flavour: str | None = None
    members: tuple[str, ...] = ()

    @staticmethod
    def from_json(value: dict[str, Any]) -> Target:
        """Parse one target; raises AigcEdgeError that names what is wrong with it."""
        fields = dict(value)
        tensorrt = fields.pop("tensorrt", None) or {}
        for key in ("precisions", "members"):
            fields[key] = tuple(fields.get(key) or ())
        try:
            target = Target(**fields, flavour=tensorrt.get("flavour"))
        except TypeError as error:
            raise AigcEdgeError(f"target {value.get('name')!r} is malformed ({error}): its fields are those of Target") from None
        wrong = _problem(target)
        if wrong:
            raise AigcEdgeError(f"target {target.name!r} is malformed: {wrong}")
        return target


def _problem(target: Target) -> str | None:
    if target.kind not in KINDS:
        return f"kind is {target.kind!r}, it must be one of {', '.join(KINDS)}"
    if (target.kind == "group") != bool(target.members):
        return "a group has members, and only a group"
    if target.kind == "gpu" and (not isinstance(target.sm, int) or target.flavour not in FLAVOURS):
        return f"a gpu has sm and a tensorrt flavour ({', '.join(FLAVOURS)})"
    if target.kind != "gpu" and (target.sm is not None or target.flavour is not None):
        return "only a gpu has sm and a tensorrt flavour"
    if target.kind != "group" and not target.precisions:
        return "precisions is empty"
    return None


@functools.cache
def all_targets() -> dict[str, Target]:
    """Every target by name."""
    found = (Target.from_json(json.loads(path.read_text("utf-8"))) for path in sorted(Path(__file__).parent.glob("*.json")))
    return {target.name: target for target in found}


def get(name: str) -> Target:
    """The target called `name`; raises AigcEdgeError that lists the names there are."""
    try:
        return all_targets()[name]
    except KeyError:
        raise AigcEdgeError(f"unknown target {name!r}: choose from {', '.join(all_targets())}") from None


def expand(names: Iterable[str]) -> list[Target]:
    """The targets called `names`, groups replaced by their members, each once, in the order given."""
    found: dict[str, Target] = {}
    for name in names:
        target = get(name)
        for member in map(get, target.members) if target.kind == "group" else (target,):
            found.setdefault(member.name, member)
    return list(found.values())


def of_sm(sm: int) -> list[str]:
    """Names of the targets of that compute capability (several cards share one)."""
    return [target.name for target in all_targets().values() if target.sm == sm]


def detect(machine: str, gpu: str | None = None, sm: int | None = None, memory_gb: float = 0.0) -> list[str]:
    """Names of the targets that a machine is: its CPU (`machine` as the kernel calls it) and its GPU by name, sm and memory.

    Devices of one capability are told apart by their names, then by the nearest memory. A GPU that no target is for is left out.
    """
    found = {"x86_64": ["x86-cpu"], "amd64": ["x86-cpu"], "aarch64": ["arm-cpu"], "arm64": ["arm-cpu"]}.get(machine.lower(), [])
    like = [all_targets()[name] for name in of_sm(sm)] if sm is not None else []
    words = f" {(gpu or '').lower()} "
    named = [t for t in like if re.search(rf" {t.name.replace('-', ' ')}(\d\d)?\b", words)]
    nearest = sorted(named or like, key=lambda t: abs((t.memory_gb or 0.0) - memory_gb))
    return found + [t.name for t in nearest[:1]]
