"""The files that an ONNX network refers to, read from its bytes: the runtime does without the package onnx.

A file beside the network is opened by whatever loads the network, relative to its folder or, for a network that is loaded from
memory, to the current directory. Only the one that the bundle lists, and whose hash was checked, may be.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from aigc_edge.bundle.wire import BYTES, VARINT, fields
from aigc_edge.errors import BundleError

# The messages of onnx.proto that lead to external data: message → field number → message of that field.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_DEEPEST = 100  # as in the protobuf library
_IR_VERSION = 1
_KEY = b"location"


def check_references(network: Path | bytes, allowed: str | None, what: str) -> None:
    """Raise BundleError unless `network`, an ONNX file or its bytes, refers to no file but the one called `allowed` (None: none).

    `what` names the network in the message. A file that is no ONNX model is refused, too: an engine may know other formats, and
    these other files that belong to them.
    """
    reason = None
    try:
        for location in _locations(network):
            if location != (allowed or "").encode():
                shown = location.decode("utf-8", "backslashreplace")
                raise BundleError(
                    f"{what} refers to the file {shown!r}, which the bundle does not list as its weights: compile it again"
                )
    except (ValueError, IndexError) as error:
        reason = str(error)
    if reason is not None:  # raised here, so that it does not hold the frames, and with them the mapping of the file
        raise BundleError(f"{what} is not an ONNX model ({reason}): compile the bundle again")


def _locations(network: Path | bytes) -> Iterator[bytes]:
    if isinstance(network, bytes):
        yield from _model(memoryview(network), network.find(_KEY) >= 0)
        return
    with network.open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    # Not closed: that fails while the frames of an exception hold slices of it. It is unmapped with the last of them.
    yield from _model(memoryview(mapped), mapped.find(_KEY) >= 0)


def _model(data: memoryview, refers: bool) -> Iterator[bytes]:
    if not any(number == _IR_VERSION and kind == VARINT for number, kind, _ in fields(data)):
        raise ValueError("it has no version")
    if refers:  # otherwise no part of it needs a look
        yield from _walk(data, "model", 0)


def _walk(data: memoryview, message: str, depth: int) -> Iterator[bytes]:
    if depth > _DEEPEST:
        raise ValueError("nested too deep")
    known = _FIELDS[message]
    for number, kind, value in fields(data):
        if number in known and kind == BYTES:
            inner = data[value[0] : value[1]]
            if known[number] == "entry":
                yield from _entry(inner)
            elif known[number] != "node" or _KEY in bytes(inner):
                yield from _walk(inner, known[number], depth + 1)


def _entry(data: memoryview) -> Iterator[bytes]:
    """The location, if this pair of key and value is one."""
    pairs = [(number, bytes(data[value[0] : value[1]])) for number, kind, value in fields(data) if kind == BYTES]
    if (1, _KEY) in pairs:
        yield from (text for number, text in pairs if number == 2)
