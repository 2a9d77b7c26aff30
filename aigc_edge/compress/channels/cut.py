"""The network without some of its channels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from aigc_edge.compress.channels.labels import Site
from aigc_edge.compress.channels.tracing import ChannelTrace, kept
from aigc_edge.compress.graphs.rewrite import assembled, copied

Values = Mapping[tuple[int, int], npt.NDArray[Any]]  # node, input index → the whole constant that is cut there


def cut(state: ChannelTrace, removed: Collection[int], values: Values | None = None) -> onnx.ModelProto:
    """A copy of the traced model without the channels whose roots are `removed`; `values` replaces constants before the cut.

    A constant that is cut differently for several nodes is duplicated; constants without readers are left out.
    """
    gone = set(removed)
    sites: dict[int, list[Site]] = {}
    for site in state.labels.sites:
        sites.setdefault(site.node, []).append(site)
    replaced: dict[int, list[int]] = {}
    for index, place in values or {}:
        replaced.setdefault(index, []).append(place)
    nodes: list[onnx.NodeProto] = []
    cut_constants: dict[str, npt.NDArray[Any]] = {}
    gathers: dict[tuple[str, bytes], str] = {}
    for index, node in enumerate(state.model.graph.node):
        copy = copied(node)
        changed = {place: (values or {})[index, place] for place in replaced.get(index, ())}
        for site in sites.get(index, ()):
            mask = kept(state.labels, site.labels, gone)
            if mask.all():
                continue
            if site.kind == "gather":
                copy.input[site.place] = _gathered(node.input[site.place], site.axis, mask, nodes, cut_constants, gathers)
            elif site.kind == "group":
                next(item for item in copy.attribute if item.name == "group").i = int(mask.sum())
            else:
                _cut(site, mask, node, copy, state.constants, changed)
        for place, value in changed.items():
            name = node.input[place] if place < len(node.input) else ""
            if not name or state.readers[name] > 1:
                name = f"{node.output[0]}_cut_{place}"
            while len(copy.input) <= place:
                copy.input.append("")
            copy.input[place] = name
            cut_constants[name] = value
        nodes.append(copy)
    tensors = (numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in cut_constants.items())
    return assembled(state.model, nodes, tensors, retyped=True)


def _cut(
    site: Site,
    mask: npt.NDArray[np.bool_],
    node: onnx.NodeProto,
    copy: onnx.NodeProto,
    constants: Mapping[str, npt.NDArray[Any]],
    changed: dict[int, npt.NDArray[Any]],
) -> None:
    """Apply one site to the inputs of its node."""

    def value(place: int) -> npt.NDArray[Any]:
        return changed[place] if place in changed else constants[node.input[place]]

    if site.kind == "constant":
        changed[site.place] = np.compress(mask, value(site.place), axis=site.axis)
    elif site.kind == "size":
        sizes = value(site.place).copy()
        sizes[site.axis] = mask.sum()
        changed[site.place] = sizes
    elif site.kind == "split":
        ends = [*site.starts[1:], len(mask)]
        changed[1] = np.array([mask[a:b].sum() for a, b in zip(site.starts, ends, strict=True)], np.int64)
        for item in [item for item in copy.attribute if item.name in ("num_outputs", "split")]:
            copy.attribute.remove(item)
    elif site.kind == "slice":
        for place, position in zip((1, 2), site.starts, strict=True):
            positions = value(place).copy()
            positions[site.axis] = mask[:position].sum()
            changed[place] = positions


def _gathered(
    name: str,
    axis: int,
    mask: npt.NDArray[np.bool_],
    nodes: list[onnx.NodeProto],
    cut_constants: dict[str, npt.NDArray[Any]],
    gathers: dict[tuple[str, bytes], str],
) -> str:
    """The tensor with the kept channels of the graph's input `name`: one Gather for all readers of the same channels."""
    key = (f"{name} {axis}", mask.tobytes())
    if key not in gathers:
        result = f"{name}_kept_{len(gathers)}"
        cut_constants[f"{result}_index"] = np.flatnonzero(mask).astype(np.int64)
        nodes.append(helper.make_node("Gather", [name, f"{result}_index"], [result], name=result, axis=axis))
        gathers[key] = result
    return gathers[key]
