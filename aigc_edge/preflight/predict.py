"""From surveys to figures: file sizes, memory and the least time of an evaluation, by format and target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aigc_edge.preflight.survey import Survey
from aigc_edge.targets import Target

if TYPE_CHECKING:
    from aigc_edge.compress.formats import Format

FLOAT = 4  # bytes
# A node with its names, attributes and the shape of its result in an ONNX file; the exporter makes about as many as torch calls.
NODE_BYTES = 270
# What a process takes that samples: Python, NumPy, the native core and onnxruntime, before a network is loaded.
PROCESS_BYTES = 78e6
# Weights are there twice while onnxruntime lays them out for its kernels; its arena rounds the activations' peak up.
WEIGHT_COPIES, ARENA = 2.0, 1.6
COMPILE_BYTES, COMPILE_COPIES = 0.75e9, 4.2  # torch and the exporter; the module, its float64 twin, the ONNX model, a session


@dataclass(frozen=True)
class Prediction:
    """One component in one format: bytes of its file, and on one target the least time of an evaluation of one sample.

    `bound` says what that time is spent on: "bandwidth" or "arithmetic"; both are None where the target's figures are not known.
    """

    component: str
    format: str
    file_bytes: int
    seconds: float | None = None
    bound: str | None = None


def file_bytes(survey: Survey, format: Format) -> int:
    """Bytes of the component's ONNX file in the format, when no layer goes back to float."""
    last = len(survey.weights) - 1
    stored = sum(
        min(format.weight_bytes(weight.outputs, weight.inputs, index in (0, last)), FLOAT * weight.elements)
        for index, weight in enumerate(survey.weights)
    )
    return int(stored + survey.others * format.constant_bytes + survey.operators * NODE_BYTES)


def evaluation(survey: Survey, format: Format, target: Target, bytes_of: int, batch: int = 1) -> tuple[float | None, str | None]:
    """Least seconds of one evaluation on the target, the roofline: weights and activations moved once, or all multiply-adds."""
    if not target.bandwidth_gbs:
        return None, None
    moved = (bytes_of + 2 * survey.activations * batch) / (target.bandwidth_gbs * 1e9)
    rate = target.peak(format.arithmetic_on(target))
    if rate is None:
        return moved, "bandwidth"
    computed = 2 * survey.macs * batch / (rate * 1e12)
    return max(moved, computed), "bandwidth" if moved >= computed else "arithmetic"


def running_bytes(surveys: Sequence[Survey], files: Mapping[str, int], batch: int) -> int:
    """Peak memory of a process that samples with onnxruntime: its networks, and the activations of the largest evaluation."""
    largest = max((survey.activations for survey in surveys), default=0)
    return int(PROCESS_BYTES + WEIGHT_COPIES * sum(files.values()) + ARENA * largest * batch)


def compiling_bytes(surveys: Sequence[Survey]) -> int:
    """Peak memory of the compilation itself, one component at a time."""
    return int(COMPILE_BYTES + COMPILE_COPIES * FLOAT * max((survey.parameters for survey in surveys), default=0))
