"""Protocol-buffer messages as bytes, read and written field by field: the runtime does without the packages onnx and protobuf."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
Field = tuple[int, int, tuple[int, int]]  # number, wire type, begin and end of the content


def fields(data: memoryview) -> Iterator[Field]:
    """Number, wire type, and begin and end of the content of every field of a message; ValueError or IndexError for others."""
    place, end = 0, len(data)
    while place < end:
        tag, place = varint(data, place)
        number, kind = tag >> 3, tag & 7
        if number == 0 or kind not in (VARINT, FIXED64, BYTES, FIXED32):
            raise ValueError("it is no protobuf message")
        begin = place
        if kind == VARINT:
            _, place = varint(data, place)
        elif kind == BYTES:
            length, begin = varint(data, place)
            place = begin + length
        else:
            place += 8 if kind == FIXED64 else 4
        if place > end:
            raise ValueError("it was cut off")
        yield number, kind, (begin, place)


def varint(data: memoryview, place: int) -> tuple[int, int]:
    """The unsigned integer that begins at `place`, and where it ends."""
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("it is no protobuf message")


def integer(number: int, value: int) -> bytes:
    """The field `number` with a non-negative integer."""
    return _varint(number << 3 | VARINT) + _varint(value)


def block(number: int, content: bytes | memoryview) -> bytes:
    """The field `number` with a string, bytes or an inner message."""
    return opening(number, len(content)) + bytes(content)


def opening(number: int, length: int) -> bytes:
    """What stands in front of `length` bytes of the field `number`."""
    return _varint(number << 3 | BYTES) + _varint(length)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
