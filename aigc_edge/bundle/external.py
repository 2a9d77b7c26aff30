"""Weights that lie in a file of their own beside an ONNX file.

onnx refuses such files when they are links. Here they may be: finished steps of a compilation are linked into its folder, and the
caches of model hubs are full of symbolic links.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from aigc_edge.errors import AigcEdgeError

# Bytes of weights that are written so. A protobuf message ends at 2 GB, and long before that its copies are what a compilation
# takes: one that is read, parsed and written is there three times, weights apart are mapped.
ABOVE = 2**28


@dataclass(frozen=True)
class ExternalData:
    """Where the bytes of a tensor are: the file, as its model names it, the first byte and their number (None: to the end)."""

    location: str
    offset: int
    length: int | None

    @staticmethod
    def of(tensor: Any) -> ExternalData | None:
        """That of an onnx.TensorProto; None: it holds its bytes itself."""
        if not tensor.external_data:
            return None
        entries = {pair.key: pair.value for pair in tensor.external_data}
        length = entries.get("length")
        return ExternalData(entries.get("location", ""), int(entries.get("offset", 0)), None if length is None else int(length))


def check_places(tensors: Iterable[Any], model: Path) -> None:
    """Raise AigcEdgeError unless the weights of `tensors` lie beside the file `model`, and whole."""
    for place in filter(None, map(ExternalData.of, tensors)):
        file = model.parent / place.location
        if not place.location or Path(place.location).is_absolute() or ".." in Path(place.location).parts:
            raise AigcEdgeError(f"the weights of {model.name} lie outside its folder ({place.location!r}): export it again")
        if not file.is_file():
            raise AigcEdgeError(f"{place.location}, weights of {model.name}, is missing: copy it beside the ONNX file")
        wanted, there = place.offset + (place.length or 0), file.stat().st_size
        if there < wanted:
            raise AigcEdgeError(
                f"{place.location}, weights of {model.name}, was cut off: it has {there} of {wanted} bytes or more, copy it again"
            )


def read_weights(tensors: Iterable[Any], model: Path) -> None:
    """Put the bytes that lie beside the file `model` into `tensors`. Raises what `check_places` does."""
    tensors = [tensor for tensor in tensors if ExternalData.of(tensor)]
    check_places(tensors, model)
    streams: dict[str, IO[bytes]] = {}
    try:
        for tensor in tensors:
            place = ExternalData.of(tensor)
            assert place is not None
            if place.location not in streams:
                streams[place.location] = (model.parent / place.location).open("rb")
            streams[place.location].seek(place.offset)
            tensor.raw_data = streams[place.location].read(-1 if place.length is None else place.length)
            del tensor.external_data[:]
            tensor.ClearField("data_location")
    except OSError as error:
        raise AigcEdgeError(f"the weights beside {model} cannot be read ({error.strerror}): check the files") from error
    finally:
        for stream in streams.values():
            stream.close()


def mapped(tensor: Any, model: Path, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The values of an onnx.TensorProto whose bytes lie beside the file `model`: read from there as they are used."""
    place, shape = ExternalData.of(tensor), tuple(tensor.dims)
    assert place is not None
    return np.memmap(model.parent / place.location, dtype, "r", place.offset, shape) if all(shape) else np.zeros(shape, dtype)
