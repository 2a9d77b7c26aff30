"""Samples of the inputs of layers, as rows of the matrix product that each layer computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from aigc_edge.compress.calibration.trajectory import Record
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.graph import Layer, attribute
from aigc_edge.compress.rounding import Floats
from aigc_edge.errors import AigcEdgeError

LEAST, MOST = 8, 64  # evaluations, spread over the rows of the program and the batch
WORK = 1e11  # multiply-adds that limit the evaluations beyond LEAST
LIMIT = 1 << 28  # bytes of rows held at a time; more layers take another pass


def layer_inputs(
    model: onnx.ModelProto,
    layers: Sequence[Layer],
    records: Sequence[Record],
    rows: int,
    threads: int,
    evaluations: int | None = None,
) -> Iterator[tuple[list[Layer], dict[str, Floats]]]:
    """Yield groups of layers that read the same tensor, with up to `rows` rows [rows, inputs] of each by its node.

    Columns are in the order of `weights.to_rows`. Embeddings and grouped convolutions are left out. The result is deterministic.
    `evaluations` None: as many as their cost allows.
    """
    nodes = {node.output[0]: node for node in model.graph.node if node.output}
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        if layer.op != "Gather" and attribute(nodes[layer.node], "group", 1) == 1:
            groups.setdefault(layer.input, []).append(layer)
    part: list[list[Layer]] = []
    size = 0
    for group in groups.values():
        need = sum(4 * rows * _inputs(layer, model) for layer in group)
        if part and size + need > LIMIT:
            yield from _pass(model, nodes, part, records, rows, threads, evaluations)
            part, size = [], 0
        part.append(group)
        size += need
    if part:
        yield from _pass(model, nodes, part, records, rows, threads, evaluations)


def _inputs(layer: Layer, model: onnx.ModelProto) -> int:
    shape = next(list(tensor.dims) for tensor in model.graph.initializer if tensor.name == layer.weight)
    return int(shape[0] if layer.op == "ConvTranspose" else np.prod(shape) // shape[layer.axis])


def _pass(
    model: onnx.ModelProto,
    nodes: dict[str, onnx.NodeProto],
    groups: list[list[Layer]],
    records: Sequence[Record],
    rows: int,
    threads: int,
    evaluations: int | None,
) -> Iterator[tuple[list[Layer], dict[str, Floats]]]:
    network = graph.Network(graph.with_outputs(model, [group[0].input for group in groups]), threads=threads)
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    work = sum(layer.macs for group in groups for layer in group)
    available = sum(len(next(iter(record.inputs.values()))) for record in records)
    count = evaluations or min(available, max(LEAST, min(MOST, int(WORK / max(work, 1)))))
    chosen = np.linspace(0, len(records) - 1, count).astype(int)
    each = -(-rows // count)
    rng = np.random.default_rng(0)
    rows_by_node: dict[str, list[Floats]] = {layer.node: [] for group in groups for layer in group}
    for turn, index in enumerate(chosen):
        inputs = records[index].inputs
        batch = len(next(iter(inputs.values())))
        one = {name: value[turn * (batch - 1) // max(count - 1, 1) :][:1] for name, value in inputs.items()}
        values = dict(zip(network.outputs, network(one), strict=True)) | one
        for group in groups:
            value = values[group[0].input]
            if not np.isfinite(value).all():
                raise AigcEdgeError("an activation is NaN or infinite during calibration: the float32 network itself is broken")
            for layer in group:
                rows_by_node[layer.node].append(_rows_of(layer, nodes[layer.node], value, shapes[layer.weight], each, rng))
    del network
    for group in groups:
        yield group, {layer.node: np.concatenate(rows_by_node.pop(layer.node)) for layer in group}


def _rows_of(
    layer: Layer, node: onnx.NodeProto, value: npt.NDArray[Any], shape: list[int], count: int, rng: np.random.Generator
) -> Floats:
    if layer.op == "Conv":
        return _patches(node, value, shape, count, rng)
    flat = np.moveaxis(value, 1, -1) if layer.op == "ConvTranspose" else value
    flat = flat.reshape(-1, flat.shape[-1])
    chosen = rng.permutation(len(flat))[:count]
    return np.ascontiguousarray(flat[chosen], dtype=np.float32)


def _patches(node: onnx.NodeProto, value: npt.NDArray[Any], shape: list[int], count: int, rng: np.random.Generator) -> Floats:
    places = len(shape) - 2
    strides = attribute(node, "strides", [1] * places)
    dilations = attribute(node, "dilations", [1] * places)
    pads = attribute(node, "pads", [0] * (2 * places))
    if attribute(node, "auto_pad", b"NOTSET") in (
        b"SAME_UPPER",
        b"SAME_LOWER",
    ):  # close enough: sampling is random
        pads = [d * (k - 1) // 2 for d, k in zip(dilations, shape[2:], strict=True)] * 2
    padded = np.pad(value, [(0, 0), (0, 0), *zip(pads[:places], pads[places:], strict=True)])
    windows = [d * (k - 1) + 1 for d, k in zip(dilations, shape[2:], strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(padded, windows, axis=tuple(range(2, 2 + places)))
    steps = tuple(slice(None, None, step) for step in [1, 1, *strides, *dilations])
    view = view[steps]
    sizes = view.shape[2 : 2 + places]
    chosen = rng.permutation(len(view) * int(np.prod(sizes)))[:count]
    sample, *at = np.unravel_index(chosen, (len(view), *sizes))
    channels_last = np.moveaxis(view, 1, 1 + places)  # an index beside a slice would change the order of axes
    picked = channels_last[tuple([sample, *at])]
    return np.ascontiguousarray(picked.reshape(len(chosen), -1), dtype=np.float32)
