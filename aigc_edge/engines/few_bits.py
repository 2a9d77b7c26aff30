"""Networks with weights of few bits in the form that takes onnxruntime the least memory; the bundle's file is standard ONNX.

onnxruntime computes such files as they are, but folds constants through floats, all of them at once: 12 bytes a weight. Here
`w4a8` becomes its int8 network by integer arithmetic, and matrix products of weights in 4 bits become MatMulNBits, onnxruntime's
operator that dequantises a block at a time. Convolutions and other readers of 4-bit weights are left to onnxruntime: as floats.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aigc_edge.bundle.onnx_file import FLOAT, INT4, INT8, INT64, UINT8, OnnxFile, OnnxNode, Tensor
from aigc_edge.errors import BundleError
from aigc_edge.files import atomic_file

FORMATS = ("w4a8", "int4", "svdquant")  # those whose networks are rewritten
VERSION = 2  # of what is written to the optimised-model cache
BLOCKS = (16, 32, 64, 128, 256)  # that MatMulNBits takes
FLOAT_INPUTS = 1  # its accuracy_level: inputs are not rounded
DOMAIN = "com.microsoft"
ONE_BEHIND, ROWS, FIRST, LAST = (f"aigc_edge_{name}" for name in ("one_behind", "rows", "first", "last"))  # constants of indices
NETWORK, WEIGHTS = "network.onnx", "network.data"


def rewritten(model: str | bytes) -> OnnxFile | None:
    """The network of a file or its bytes in the form for onnxruntime; None when nothing of it changes or it is not understood.

    Raises BundleError for weights of two levels of scales that leave int8.
    """
    try:
        network = OnnxFile(model)
        changed = expand(network) + multiply_packed(network)
    except (ValueError, IndexError, KeyError, OSError):  # onnxruntime says what is wrong with it, or computes it as it is
        return None
    if changed:
        network.drop_unread()
    return network if changed else None


@contextlib.contextmanager
def on_disk(model: str | bytes, folder: Path) -> Iterator[str | bytes]:
    """What onnxruntime loads in place of `model`: a file in a temporary folder inside `folder`, or `model` as it is."""
    network = rewritten(model)
    if network is None:
        yield model
        return
    with tempfile.TemporaryDirectory(dir=folder, prefix=".few-bits-") as place:
        network.write(Path(place) / NETWORK, Path(place) / WEIGHTS, WEIGHTS)
        yield str(Path(place) / NETWORK)


def in_memory(model: str | bytes) -> str | bytes:
    """What onnxruntime loads in place of `model`: bytes, or `model` as it is."""
    network = rewritten(model)
    return model if network is None else network.serialised()


def write_expanded(model: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Write the ONNX file `model` of a bundle to `out`, weights in `out`.data, in the form that onnxruntime computes it in here.

    For applications that load the network themselves. Raises AigcEdgeError when the file cannot be written, and BundleError when
    it has nothing to expand.
    """
    path = Path(out)
    network = rewritten(os.fspath(model))
    if network is None:
        raise BundleError(f"{os.fspath(model)} has no weights in 4 bits that can be expanded: load it as it is")
    weights = path.with_name(f"{path.name}.data")
    with atomic_file(path) as part, atomic_file(weights) as data:  # the weights are there before what refers to them
        network.write(part, data, weights.name)


def expand(network: OnnxFile) -> int:
    """Compute the int8 weights of `w4a8` (compress.graphs.two_level.written) as they are written; returns their number."""
    by_output = {node.outputs[0]: node for node in network.nodes if node.outputs}
    computed: dict[str, _Codes] = {}
    for node in network.nodes:
        codes = _two_level(node, by_output, network.tensors)
        if codes is not None:
            computed[node.outputs[0]] = codes
    network.nodes = [node for node in network.nodes if computed.keys().isdisjoint(node.outputs)]
    for name, codes in computed.items():
        network.add(name, INT8, codes.shape, codes.integers)
    return len(computed)


class _Codes(NamedTuple):
    """An int8 weight: codes, scales and offsets of its blocks, and its shape."""

    codes: Tensor
    scales: Tensor
    offsets: Tensor
    shape: tuple[int, ...]

    def integers(self) -> NDArray[np.int8]:
        """The weight; raises BundleError when a value leaves −127 … 127, which no file that was compiled does."""
        wide = self.codes.array().astype(np.int16)
        wide *= self.scales.array()
        wide += self.offsets.array()
        if wide.size and max(-int(wide.min()), int(wide.max())) > 127:
            raise BundleError(f"the weight {self.codes.name} leaves the range of int8: compile the bundle again")
        return wide.astype(np.int8).reshape(self.shape)


def _two_level(node: OnnxNode, by_output: dict[str, OnnxNode], tensors: dict[str, Tensor]) -> _Codes | None:
    def source(node: OnnxNode | None, place: int, op: str) -> OnnxNode | None:
        before = None if node is None or len(node.inputs) <= place else by_output.get(node.inputs[place])
        return before if before is not None and before.op == op and not before.domain else None

    cast = source(node, 0, "Cast") if node.op == "Reshape" else None
    if cast is None or cast.integers.get("to") != INT8 or node.inputs[1] not in tensors:
        return None
    moved = source(cast, 0, "Add")
    scaled = source(moved, 0, "Mul")
    casts = (source(scaled, 0, "Cast"), source(scaled, 1, "Cast"), source(moved, 1, "Cast"))
    found = [tensors.get(each.inputs[0]) for each in casts if each is not None and each.integers.get("to") == FLOAT]
    if [None if tensor is None else tensor.kind for tensor in found] != [INT4, INT8, INT8]:
        return None
    codes, scales, offsets = (tensor for tensor in found if tensor is not None)
    if any(part.content is None for part in (codes, scales, offsets)):
        return None
    shape = tuple(int(size) for size in tensors[node.inputs[1]].array())
    if min(shape, default=0) < 1 or math.prod(shape) != math.prod(codes.dims):
        return None
    if any(np.broadcast_shapes(codes.dims, part.dims) != codes.dims for part in (scales, offsets)):
        return None
    return _Codes(codes, scales, offsets, shape)


def multiply_packed(network: OnnxFile) -> int:
    """Replace matrix products of weights in blocks of 4 bits by MatMulNBits; returns their number.

    A weight that something else reads, too, stays as it is. onnxruntime multiplies a single row by another kernel, which rounds
    otherwise: each product gets a row of zeros more, so that samples do not depend on the batch.
    """
    readers, results = network.readers(), network.results()
    weights: dict[str, _Packed] = {}
    for node in network.nodes:
        packed = _packed(node, network.tensors)
        if packed is None or node.outputs[0] in results:
            continue
        reading = readers.get(node.outputs[0], [])
        if reading and all(packed.multiplied_by(each, node.outputs[0]) for each in reading):
            weights[node.outputs[0]] = packed
    nodes: list[OnnxNode] = []
    for node in network.nodes:
        packed = weights.get(node.inputs[1]) if len(node.inputs) > 1 else None
        if packed is None:
            nodes.append(node)
            continue
        names = [f"{packed.codes.name}_packed", f"{packed.codes.name}_scales"]
        blocks = packed.inputs // packed.block
        network.add(names[0], UINT8, (packed.outputs, blocks, packed.block // 2), packed.bytes)
        network.add(names[1], FLOAT, (packed.outputs, blocks), packed.scales_of_rows)
        result = node.outputs[0]
        product = f"{result}_product" if len(node.inputs) > 2 and node.inputs[2] else result
        settings = {"K": packed.inputs, "N": packed.outputs, "bits": 4, "block_size": packed.block}
        settings["accuracy_level"] = FLOAT_INPUTS
        padded, rows = f"{result}_padded", f"{result}_rows"
        nodes.append(OnnxNode("Pad", (node.inputs[0], ONE_BEHIND, "", ROWS), (padded,)))
        nodes.append(OnnxNode("MatMulNBits", (padded, *names), (rows,), DOMAIN, settings))
        nodes.append(OnnxNode("Slice", (rows, FIRST, LAST, ROWS), (product,)))
        if product != result:
            nodes.append(OnnxNode("Add", (product, node.inputs[2]), (result,)))
    if weights:
        for name, values in ((ONE_BEHIND, (0, 1)), (ROWS, (-2,)), (FIRST, (0,)), (LAST, (-1,))):
            network.add(name, INT64, (len(values),), functools.partial(np.array, values, np.int64))
        network.nodes = nodes
        network.need(DOMAIN, 1)
    return len(weights)


class _Packed(NamedTuple):
    """A weight of 4 bits with one float32 scale for each block along the inputs; `upright`: stored as [outputs, inputs]."""

    codes: Tensor
    scales: Tensor
    block: int
    upright: bool

    @property
    def inputs(self) -> int:
        return self.codes.dims[1 if self.upright else 0]

    @property
    def outputs(self) -> int:
        return self.codes.dims[0 if self.upright else 1]

    def multiplied_by(self, node: OnnxNode, name: str) -> bool:
        """Whether the node is a plain product of something and this weight, which is called `name`."""
        if node.domain or len(node.inputs) < 2 or node.inputs[1] != name or node.inputs.count(name) > 1:
            return False
        if node.op == "MatMul":
            return not self.upright
        plain = node.op == "Gemm" and {node.floats.get("alpha", 1.0), node.floats.get("beta", 1.0)} == {1.0}
        return plain and not node.integers.get("transA", 0) and bool(node.integers.get("transB", 0)) == self.upright

    def bytes(self) -> NDArray[np.uint8]:
        """[outputs, blocks, block / 2]: codes + 8, two in a byte, the first in its low half."""
        codes = self.codes.array()
        rows = np.ascontiguousarray(codes if self.upright else codes.T).view(np.uint8)
        rows += np.uint8(8)  # wraps: codes are −8 … 7
        pairs: NDArray[np.uint8] = rows[:, 0::2] | rows[:, 1::2] << np.uint8(4)
        return pairs.reshape(self.outputs, -1, self.block // 2)

    def scales_of_rows(self) -> NDArray[Any]:
        """[outputs, blocks]."""
        scales = self.scales.array()
        return np.ascontiguousarray(scales if self.upright else scales.T)


def _packed(node: OnnxNode, tensors: dict[str, Tensor]) -> _Packed | None:
    if node.op != "DequantizeLinear" or node.domain or len(node.inputs) != 2:
        return None
    codes, scales = (tensors.get(name) for name in node.inputs)
    block, axis = node.integers.get("block_size", 0), node.integers.get("axis", 1)
    if codes is None or scales is None or (codes.kind, scales.kind) != (INT4, FLOAT) or len(codes.dims) != 2:
        return None
    if codes.content is None or scales.content is None or node.integers.get("output_dtype", FLOAT) not in (0, FLOAT):
        return None
    if block not in BLOCKS or axis not in (0, 1) or codes.dims[axis] % block or 0 in codes.dims:
        return None
    if scales.dims != tuple(size // block if place == axis else size for place, size in enumerate(codes.dims)):
        return None
    return _Packed(codes, scales, block, axis == 1)
