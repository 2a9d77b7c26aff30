"""Predict file sizes, memory and a lower bound of the evaluation time from surveys, by format and target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from aigc_edge.bundle import external
from aigc_edge.bundle.component import TEXT_ENCODERS
from aigc_edge.engines import prepacked
from aigc_edge.preflight.survey import Survey
from aigc_edge.targets import Target

if TYPE_CHECKING:
    from aigc_edge.compress.format import Format

FLOAT = 4  # bytes
# A node with its names, attributes and the shape of its result in an ONNX file; the exporter makes about as many as torch calls.
NODE_BYTES = 270
# Memory of a sampling process: Python, NumPy, the native core and onnxruntime; and of each session without its weights.
PROCESS_BYTES, SESSION_BYTES = 78e6, 25e6
# What a network takes when it is opened, by byte of its file or, where few bits are stored, of its floats, and by whether it is
# of convolutions, whose weights are prepacked: fitted to networks of 36 to 90 M parameters. Small ones keep that; larger ones are
# written to the optimised-model cache the first time, and memory-mapped from then on.
OPENING = {("fp32", True): 2.25, ("fp32", False): 1.25, ("half", True): 4.4, ("half", False): 3.0}
OPENING |= {("int8", True): 1.1, ("int8", False): 1.1, ("stored", True): 1.75, ("stored", False): 1.0}
MAKING = {("fp32", True): 2.9, ("fp32", False): 1.7, ("half", True): 5.0, ("half", False): 3.6}
MAKING |= {("int8", True): 2.1, ("int8", False): 2.1, ("stored", True): 2.2, ("stored", False): 1.6}
MAKING_APART = 1.5  # of float32 weights beside the file, which are not read as a message
ARENA = 1.6  # rounds the activations' peak up


class Compiling(NamedTuple):
    """Memory of a compilation: a constant, per byte of weights inside the ONNX file, and per byte of external weights."""

    process: float
    inside: float
    apart: float


# With torch, the exporter, the module and its float64 twin: fitted to compilations of 143, 160, 435 MB of weights and of 3.4 GB.
# Of ONNX files: of 168 MB, 0.9 and 2.4 GB. By activation a few in float64.
OF_MODULES, OF_FILES, COMPILE_ACTIVATIONS = Compiling(0.7e9, 5.5, 3.1), Compiling(0.45e9, 4.3, 2.6), 4.5


def schedule_bytes(survey: Survey) -> int:
    """Bytes of the float32 weights that move from the network into its schedule."""
    return sum(FLOAT * weight.elements for weight in survey.weights if weight.timestep_only)


def file_bytes(survey: Survey, format: Format) -> int:
    """Bytes of the component's ONNX file in the format, without its schedule, if no layer falls back to float."""
    ends = _ends(survey)
    stored = sum(
        min(format.weight_bytes(w.outputs, w.inputs, w.operator == "Gather" or id(w) in ends), FLOAT * w.elements)
        for w in survey.weights
        if not w.timestep_only
    )
    return int(stored + survey.others * format.constant_bytes + survey.operators * NODE_BYTES)


def _ends(survey: Survey) -> set[int]:
    """The first and the last weight that something is multiplied with, by identity."""
    products = [weight for weight in survey.weights if weight.operator != "Gather"]
    return {id(weight) for weight in products[:1] + products[-1:]}


def evaluation(survey: Survey, format: Format, target: Target, batch: float = 1) -> tuple[float | None, str | None]:
    """A lower bound (roofline) of the seconds for one evaluation of `batch` samples on the target.

    Returns the time and its limit, "bandwidth" or "arithmetic"; None if the target's figures are unknown.
    """
    if not target.bandwidth_gbs:
        return None, None
    moved = (_read_bytes(survey, format, target) + 2 * survey.activations * batch) / (target.bandwidth_gbs * 1e9)
    tops = target.tops or {}
    floats = "fp32" if format.name == "fp32" or target.kind == "cpu" else "fp16"
    ends = _ends(survey)
    work = [
        (w.macs, format.computed_in(w.operator, w.inputs, w.macs // max(w.elements, 1), id(w) in ends)) for w in survey.weights
    ]
    work.append((survey.products, format.computed_in("MatMul", 0, 0, False)))
    computed = 0.0
    for macs, kind in work:
        rate = tops.get(floats if target.kind == "cpu" and kind not in tops else kind or floats)
        if not rate:
            return moved, "bandwidth"
        computed += 2 * macs * batch / (rate * 1e12)
    return max(moved, computed), "bandwidth" if moved >= computed else "arithmetic"


def _read_bytes(survey: Survey, format: Format, target: Target) -> int:
    """Bytes of weights that an evaluation reads: as they are stored, but on CPUs floats of what is not computed in int8."""
    stored = file_bytes(survey, format)
    if target.kind != "cpu" or format.computed_in("MatMul", 1, 1, False) in (target.tops or {}):
        return stored
    return max(stored, FLOAT * survey.parameters - schedule_bytes(survey))


def running_bytes(surveys: Sequence[Survey], files: Mapping[str, int], formats: Mapping[str, Format], batch: int) -> int:
    """Peak memory of a process that samples with onnxruntime for the first time: its networks, of which one is being opened, text
    encoders last, or with the activations of the largest evaluation."""
    held, most = PROCESS_BYTES, 0.0
    for survey in sorted(surveys, key=lambda survey: survey.component in TEXT_ENCODERS):
        opening, after = _opened(survey, files[survey.component], formats[survey.component].name)
        held += SESSION_BYTES
        most = max(most, held + opening)
        held += after
    return int(max(most, held + ARENA * batch * max((survey.activations for survey in surveys), default=0)))


def _opened(survey: Survey, size: int, format: str) -> tuple[float, float]:
    """Bytes that a network of a file of `size` takes while it is opened, and afterwards."""
    if format == "w4a8":  # it becomes the int8 network
        size, format = max(size, (FLOAT * survey.parameters - schedule_bytes(survey)) // 4), "int8"
    kind = "half" if format in ("fp16", "bf16") else format if format in ("fp32", "int8") else "stored"
    inside = sum(weight.elements for weight in survey.weights if weight.operator.startswith("Conv"))
    share, floats = inside / max(survey.parameters, 1), FLOAT * survey.parameters - schedule_bytes(survey)
    base = floats if kind == "stored" else size

    def taken(copies: Mapping[tuple[str, bool], float]) -> float:
        return base * (share * copies[kind, True] + (1 - share) * copies[kind, False]) + (size if kind == "stored" else 0)

    if size < prepacked.MIN_BYTES:
        return taken(OPENING), taken(OPENING)
    held = size if kind in ("fp32", "int8") else floats
    return MAKING_APART * size if kind == "fp32" and size > external.ABOVE else taken(MAKING), held


def compiling_bytes(surveys: Sequence[Survey], takes: Compiling = OF_MODULES) -> int:
    """Peak memory of the compilation itself, one component at a time."""
    each = [FLOAT * survey.parameters for survey in surveys]
    weights = max((size * (takes.apart if size > external.ABOVE else takes.inside) for size in each), default=0)
    activations = max((survey.activations for survey in surveys), default=0)
    return int(takes.process + weights + COMPILE_ACTIVATIONS * activations)
