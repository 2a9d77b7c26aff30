"""Runs a network along calibration inputs and shows every value of chosen tensors, one sample at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy.typing as npt
import onnx

from aigc_edge.compress.calibration.trajectory import Record
from aigc_edge.compress.graphs import graph

See = Callable[[str, npt.NDArray[Any], int], None]  # tensor, its values, row of the program


def watch(model: onnx.ModelProto, tensors: Collection[str], records: Sequence[Record], see: See, threads: int) -> None:
    """Call `see` for all `tensors`; one sample at a time, because all activations of a batch would not fit into memory."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    present = {value.name for value in [*watched.graph.input, *watched.graph.output]}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(set(tensors) - present))
    network = graph.Network(watched, threads=threads)
    del watched
    for record in records:
        for index in range(len(next(iter(record.inputs.values())))):
            inputs = {name: value[index : index + 1] for name, value in record.inputs.items()}
            values = dict(zip(network.outputs, network(inputs), strict=True)) | inputs
            for name in tensors:
                see(name, values[name], record.row)
