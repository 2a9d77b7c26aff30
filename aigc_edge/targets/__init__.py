"""Targets: the devices that a bundle can be compiled for, one small JSON file each.

Another distribution adds targets by an entry point in the group `aigc_edge.targets`, whose object is a package or folder of JSON
files, the path of one, or its members as a dict.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from aigc_edge.errors import AigcEdgeError
from aigc_edge.registry import extensions, skip
from aigc_edge.targets.target import Target

__all__ = ["Target", "all_targets", "detect", "expand", "get", "of_gpu"]

GROUP = "aigc_edge.targets"


@functools.cache
def all_targets() -> dict[str, Target]:
    """Every target by name, those of other distributions last."""
    by_name = {target.name: target for target in _targets_in(Path(__file__).parent)}
    for point, resource in extensions(GROUP):
        try:
            added = list(_targets_in(resource))
        except (AigcEdgeError, AttributeError, OSError, ValueError, TypeError) as error:
            skip(point, f"is not a target ({error})")
            continue
        for target in added:
            if by_name.setdefault(target.name, target) is not target:
                skip(point, f"has a target whose name is already taken, {target.name!r}")
    return by_name


def _targets_in(resource: Any) -> Iterator[Target]:
    """The targets of a dict, a JSON file, a folder of them or a package."""
    if isinstance(resource, dict):
        yield Target.from_json(resource)
    elif isinstance(resource, ModuleType):
        for folder in resource.__path__:
            yield from _targets_in(folder)
    elif Path(resource).is_dir():
        for path in sorted(Path(resource).glob("*.json")):
            yield from _targets_in(path)
    else:
        yield from _targets_in(json.loads(Path(resource).read_text("utf-8")))


def get(name: str) -> Target:
    """The target called `name`; raises AigcEdgeError that lists the known names."""
    try:
        return all_targets()[name]
    except KeyError:
        raise AigcEdgeError(f"unknown target {name!r}: choose from {', '.join(all_targets())}") from None


def expand(names: Iterable[str]) -> list[Target]:
    """The targets called `names`, groups replaced by their members, each once, in the order given."""
    expanded: dict[str, Target] = {}
    for name in names:
        target = get(name)
        for member in map(get, target.members) if target.kind == "group" else (target,):
            expanded.setdefault(member.name, member)
    return list(expanded.values())


def _of_sm(sm: int) -> list[Target]:
    """The targets of that compute capability (several cards share one)."""
    return [target for target in all_targets().values() if target.sm == sm]


def of_gpu(name: str, sm: int) -> Target | None:
    """The target called `name` where it has that capability, else the first that has it, as their limits are the same."""
    return min(_of_sm(sm), key=lambda target: target.name != name, default=None)


def detect(machine: str, gpu: str | None = None, sm: int | None = None, memory_gb: float = 0.0) -> list[str]:
    """Names of the targets that match a machine: its CPU (`machine` as in `uname -m`) and its GPU by name, sm and memory.

    Devices of one capability are distinguished by name, then by the nearest memory. A GPU without a target is omitted.
    """
    cpus = {"x86_64": ["x86-cpu"], "amd64": ["x86-cpu"], "aarch64": ["arm-cpu"], "arm64": ["arm-cpu"]}.get(machine.lower(), [])
    like = [] if sm is None else _of_sm(sm)
    words = f" {(gpu or '').lower()} "
    named = [t for t in like if re.search(rf" {t.name.replace('-', ' ')}(\d\d)?\b", words)]
    nearest = sorted(named or like, key=lambda t: abs((t.memory_gb or 0.0) - memory_gb))
    return cpus + [t.name for t in nearest[:1]]
