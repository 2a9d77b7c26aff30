"""ONNX networks read and rewritten without the package onnx, which the runtime does without, and without their weights in memory.

What is not understood is kept byte for byte. Weights stay where they are until they are written, one at a time.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_edge.bundle.wire import BYTES, FIXED32, VARINT, block, fields, integer, opening, varint

FLOAT, UINT8, INT8, INT64, INT4 = 1, 2, 3, 7, 22  # TensorProto.DataType
_DTYPES = {FLOAT: "<f4", UINT8: "u1", INT8: "i1", INT64: "<i8"}
_MODEL_GRAPH, _MODEL_OPSET = 7, 8
_NODE, _TENSOR = 1, 5  # of a graph
_BODIES = (6, 11)  # of an attribute: graphs
_FLOAT, _INT = 1, 2  # AttributeProto.AttributeType
SMALL, ALIGNMENT = 1024, 4096  # bytes: smaller tensors stay in the message; alignment of the others in their file
Content = Callable[[], "memoryview | NDArray[Any]"]


@dataclass(frozen=True)
class Tensor:
    """A constant: its bytes as ONNX stores them come from `content` when they are needed; None: `message` has them otherwise."""

    name: str
    dims: tuple[int, ...]
    kind: int
    size: int = 0  # bytes of `content`
    content: Content | None = None
    message: memoryview | None = None  # as it stands in the file, unless its bytes lie beside the file

    def array(self) -> NDArray[Any]:
        """The values; those of 4 bits as int8. Raises ValueError for a type or form that is not read here."""
        if self.content is None or self.kind not in (*_DTYPES, INT4):
            raise ValueError(f"{self.name} has no bytes of a type that is read here")
        data = np.frombuffer(self.content(), np.uint8)
        if self.kind == INT4:
            return _unpacked(data, math.prod(self.dims)).reshape(self.dims)
        return data.view(_DTYPES[self.kind]).reshape(self.dims)

    def header(self) -> bytes:
        """All fields of the message but the values."""
        dims = b"".join(integer(1, size) for size in self.dims)
        return dims + integer(2, self.kind) + block(8, self.name.encode())


@dataclass(frozen=True)
class OnnxNode:
    """A node, its attributes that are one integer or one float, and the message that it came from."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    domain: str = ""
    integers: Mapping[str, int] = field(default_factory=dict)
    floats: Mapping[str, float] = field(default_factory=dict)  # read, not written
    message: memoryview | None = None
    has_bodies: bool = False

    def serialised(self) -> bytes | memoryview:
        """The message."""
        if self.message is not None:
            return self.message
        parts = [block(1, name.encode()) for name in self.inputs] + [block(2, name.encode()) for name in self.outputs]
        parts += [block(3, self.outputs[0].encode()), block(4, self.op.encode())]
        for name, value in self.integers.items():
            parts.append(block(5, block(1, name.encode()) + integer(3, value) + integer(20, _INT)))
        return b"".join([*parts, block(7, self.domain.encode())])


class OnnxFile:
    """One network: `nodes` and `tensors` (constants by name) may be changed, then `write` or `serialised` makes a new network."""

    def __init__(self, model: str | bytes) -> None:
        """Read a file, with the weights beside it, or its bytes. Raises ValueError, IndexError or OSError for what is none."""
        self._folder = Path(model).parent if isinstance(model, str) else None
        self._files: dict[str, memoryview] = {}
        data = memoryview(model) if isinstance(model, bytes) else _mapped(Path(model))
        self._others: list[memoryview] = []  # fields of the model and of its graph that stay as they are, with their tags
        self._graph: list[memoryview] = []
        self.nodes: list[OnnxNode] = []
        self.tensors: dict[str, Tensor] = {}
        self.opsets: dict[str, int] = {}
        self._added: dict[str, int] = {}
        for number, kind, whole, content in _parts(data):
            if number == _MODEL_GRAPH and kind == BYTES:
                self._read_graph(content)
            else:
                self._others.append(whole)
                if number == _MODEL_OPSET and kind == BYTES:
                    entry = {inner: value for inner, _, _, value in _parts(content)}
                    self.opsets[_text(entry.get(1))] = _number(entry.get(2))

    def _read_graph(self, data: memoryview) -> None:
        for number, kind, whole, content in _parts(data):
            if number == _NODE and kind == BYTES:
                self.nodes.append(_node(content))
            elif number == _TENSOR and kind == BYTES:
                tensor = self._tensor(content)
                self.tensors[tensor.name] = tensor
            else:
                self._graph.append(whole)

    def _tensor(self, message: memoryview) -> Tensor:
        name, kind, dims, raw = "", 0, [], None
        entries: dict[str, str] = {}
        for number, wire, _, content in _parts(message):
            if number == 1 and wire == BYTES:  # packed
                place = 0
                while place < len(content):
                    size, place = varint(content, place)
                    dims.append(size)
            elif number == 1:
                dims.append(_number(content))
            elif number == 2:
                kind = _number(content)
            elif number == 8:
                name = _text(content)
            elif number == 9:
                raw = content
            elif number == 13:
                pair = {inner: _text(value) for inner, _, _, value in _parts(content)}
                entries[pair.get(1, "")] = pair.get(2, "")
        shape = tuple(dims)
        if any(size >= 2**63 for size in shape):  # NumPy takes no larger ones; negative ones stand in the file as such
            raise ValueError(f"{name} has a size that is negative or too large")
        if entries:
            raw = self._beside(entries)
        if raw is not None and kind in (*_DTYPES, INT4):
            count = math.prod(shape)
            if len(raw) != (-(-count // 2) if kind == INT4 else count * np.dtype(_DTYPES[kind]).itemsize):
                raise ValueError(f"{name} has {len(raw)} bytes for {count} values")
        if entries and raw is not None:
            return Tensor(name, shape, kind, len(raw), lambda: raw)
        return Tensor(name, shape, kind, 0 if raw is None else len(raw), None if raw is None else lambda: raw, message)

    def _beside(self, entries: Mapping[str, str]) -> memoryview:
        location = entries.get("location", "")
        if self._folder is None or Path(location).name != location:
            raise ValueError("its weights are not beside it")
        if location not in self._files:
            self._files[location] = _mapped(self._folder / location)
        data, first = self._files[location], int(entries.get("offset", 0))
        last = first + int(entries["length"]) if "length" in entries else len(data)
        if not 0 <= first <= last:
            raise ValueError(f"bytes {first} to {last} of {location} are no constant")
        if last > len(data):
            raise ValueError(f"{location} was cut off")
        return data[first:last]

    def add(self, name: str, array_kind: int, dims: Iterable[int], content: Content) -> None:
        """Add a constant whose values, contiguous, are computed when they are written."""
        shape = tuple(dims)
        size = math.prod(shape) * np.dtype(_DTYPES[array_kind]).itemsize
        self.tensors[name] = Tensor(name, shape, array_kind, size, content)

    def need(self, domain: str, version: int) -> None:
        """State that nodes of another domain are used."""
        if domain not in self.opsets:
            self._added[domain] = self.opsets[domain] = version

    def readers(self) -> dict[str, list[OnnxNode]]:
        """The nodes that read each tensor; a node with bodies counts as a reader of every tensor that its message names."""
        reading: dict[str, list[OnnxNode]] = {}
        produced = {name for node in self.nodes for name in node.outputs} | self.tensors.keys()
        for node in self.nodes:
            names = set(node.inputs)
            if node.has_bodies and node.message is not None:
                text = bytes(node.message)
                names |= {name for name in produced if name.encode() in text}
            for name in names:
                reading.setdefault(name, []).append(node)
        return reading

    def results(self) -> set[str]:
        """Names of the graph's outputs."""
        found = set()
        for whole in self._graph:
            ((number, _, _, content),) = _parts(whole)
            if number == 12:
                found |= {_text(value) for inner, _, _, value in _parts(content) if inner == 1}
        return found

    def drop_unread(self) -> None:
        """Remove nodes and constants without readers."""
        while True:
            read = self.readers().keys() | self.results()
            kept = [node for node in self.nodes if not read.isdisjoint(node.outputs)]
            if len(kept) == len(self.nodes):
                break
            self.nodes = kept
        self.tensors = {name: tensor for name, tensor in self.tensors.items() if name in read}

    def write(self, path: Path, data: Path, weights: str) -> None:
        """Write the network to `path` and all but small constants to `data`, which will lie beside it as `weights`."""
        stubs: list[bytes | memoryview] = []
        with data.open("wb") as stream:
            for tensor in self.tensors.values():
                if tensor.content is None or tensor.size < SMALL:
                    stubs.append(b"".join(bytes(part) for part in _inside(tensor)))
                    continue
                stream.seek(-stream.tell() % ALIGNMENT, 1)
                place = {"location": weights, "offset": str(stream.tell()), "length": str(tensor.size)}
                stream.write(_bytes_of(tensor))
                entries = (block(13, block(1, key.encode()) + block(2, value.encode())) for key, value in place.items())
                stubs.append(tensor.header() + b"".join(entries) + integer(14, 1))
        path.write_bytes(b"".join(self._message([[stub] for stub in stubs])))

    def serialised(self) -> bytes:
        """The network with all constants as one message."""
        return b"".join(self._message([_inside(tensor) for tensor in self.tensors.values()]))

    def _message(self, tensors: list[list[bytes | memoryview]]) -> list[bytes | memoryview]:
        graph: list[bytes | memoryview] = [block(_NODE, node.serialised()) for node in self.nodes]
        for parts in tensors:
            graph += [opening(_TENSOR, sum(map(len, parts))), *parts]
        graph += self._graph
        added = [block(_MODEL_OPSET, block(1, name.encode()) + integer(2, version)) for name, version in self._added.items()]
        return [*self._others, *added, opening(_MODEL_GRAPH, sum(map(len, graph))), *graph]


def _inside(tensor: Tensor) -> list[bytes | memoryview]:
    if tensor.message is not None:
        return [tensor.message]
    data = _bytes_of(tensor)
    return [tensor.header(), opening(9, len(data)), data]


def _bytes_of(tensor: Tensor) -> memoryview:
    assert tensor.content is not None
    content = tensor.content()
    data = np.ascontiguousarray(content).view(np.uint8).reshape(-1).data if isinstance(content, np.ndarray) else content
    if len(data) != tensor.size:
        raise ValueError(f"{tensor.name} has {len(data)} bytes instead of {tensor.size}")
    return data


def _unpacked(data: NDArray[np.uint8], count: int) -> NDArray[np.int8]:
    """Signed integers of 4 bits, the first of each byte in its low half."""
    codes = np.empty(2 * len(data), np.int8)
    np.right_shift((data << 4).view(np.int8), 4, out=codes[0::2])
    np.right_shift(data.view(np.int8), 4, out=codes[1::2])
    return codes[:count]


def _node(message: memoryview) -> OnnxNode:
    texts: dict[int, list[str]] = {1: [], 2: [], 4: [], 7: []}
    integers: dict[str, int] = {}
    floats: dict[str, float] = {}
    bodies = False
    for number, kind, _, content in _parts(message):
        if number in texts and kind == BYTES:
            texts[number].append(_text(content))
        elif number == 5 and kind == BYTES:
            name, value, real, type_ = "", None, None, 0
            for inner, wire, _, part in _parts(content):
                if inner == 1:
                    name = _text(part)
                elif inner == 3 and wire == VARINT:
                    value = _number(part)
                elif inner == 2 and wire == FIXED32:
                    real = float(np.frombuffer(part, "<f4")[0])
                elif inner == 20 and wire == VARINT:
                    type_ = _number(part)
                bodies |= inner in _BODIES
            if type_ == _INT and value is None:  # a writer of proto3 leaves out zeros
                value = 0
            if type_ == _FLOAT and real is None:
                real = 0.0
            if value is not None:
                integers[name] = value - 2**64 if value >= 2**63 else value
            if real is not None:
                floats[name] = real
    op, domain = "".join(texts[4]), "".join(texts[7])
    return OnnxNode(
        op, tuple(texts[1]), tuple(texts[2]), "" if domain == "ai.onnx" else domain, integers, floats, message, bodies
    )


def _parts(data: memoryview) -> Iterator[tuple[int, int, memoryview, memoryview]]:
    """Number, wire type, the field with its tag, and its content, of every field."""
    begin = 0
    for number, kind, (first, last) in fields(data):
        yield number, kind, data[begin:last], data[first:last]
        begin = last


def _text(data: memoryview | None) -> str:
    return "" if data is None else bytes(data).decode()


def _number(data: memoryview | None) -> int:
    return 0 if data is None else varint(data, 0)[0]


def _mapped(path: Path) -> memoryview:
    with path.open("rb") as stream:
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
