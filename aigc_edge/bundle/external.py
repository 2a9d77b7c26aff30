"""External weights of an ONNX model, in a separate file beside it.

Unlike in the onnx package, such files may be links: finished stages of a compilation are linked into its workspace, and model
hub caches use symbolic links.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from aigc_edge.errors import AigcEdgeError

# Models with more bytes of weights than this use external data. A protobuf message is limited to 2 GB, and reading, parsing and
# writing one keeps three copies in memory, while external weights are memory-mapped.
ABOVE = 2**28


@dataclass(frozen=True)
class ExternalData:
    """Where the bytes of a tensor are: the file, as its model names it, the first byte and their number (None: to the end)."""

    location: str
    offset: int
    length: int | None

    @staticmethod
    def of(tensor: Any) -> ExternalData | None:
        """The external data of an onnx.TensorProto; None if it stores its bytes itself."""
        if not tensor.external_data:
            return None
        entries = {pair.key: pair.value for pair in tensor.external_data}
        length = entries.get("length")
        return ExternalData(entries.get("location", ""), int(entries.get("offset", 0)), None if length is None else int(length))


def check_locations(tensors: Iterable[Any], model: Path) -> None:
    """Raise AigcEdgeError unless the weights of `tensors` lie beside the file `model`, and whole."""
    for data in filter(None, map(ExternalData.of, tensors)):
        file = model.parent / data.location
        if not data.location or Path(data.location).is_absolute() or ".." in Path(data.location).parts:
            raise AigcEdgeError(f"the weights of {model.name} lie outside its folder ({data.location!r}): export it again")
        if not file.is_file():
            raise AigcEdgeError(f"{data.location}, weights of {model.name}, is missing: copy it beside the ONNX file")
        needed, size = data.offset + (data.length or 0), file.stat().st_size
        if size < needed:
            raise AigcEdgeError(
                f"{data.location}, weights of {model.name}, was cut off: it has {size} of {needed} bytes or more, copy it again"
            )


def read_weights(tensors: Iterable[Any], model: Path) -> None:
    """Put the bytes that lie beside the file `model` into `tensors`. Raises what `check_locations` does."""
    tensors = [tensor for tensor in tensors if ExternalData.of(tensor)]
    check_locations(tensors, model)
    streams: dict[str, IO[bytes]] = {}
    try:
        for tensor in tensors:
            data = ExternalData.of(tensor)
            assert data is not None
            if data.location not in streams:
                streams[data.location] = (model.parent / data.location).open("rb")
            streams[data.location].seek(data.offset)
            tensor.raw_data = streams[data.location].read(-1 if data.length is None else data.length)
            del tensor.external_data[:]
            tensor.ClearField("data_location")
    except OSError as error:
        raise AigcEdgeError(f"the weights beside {model} cannot be read ({error.strerror}): check the files") from error
    finally:
        for stream in streams.values():
            stream.close()


def mapped(tensor: Any, model: Path, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The values of an onnx.TensorProto whose bytes lie beside the file `model`: read from there as they are used."""
    data, shape = ExternalData.of(tensor), tuple(tensor.dims)
    assert data is not None
    return np.memmap(model.parent / data.location, dtype, "r", data.offset, shape) if all(shape) else np.zeros(shape, dtype)
