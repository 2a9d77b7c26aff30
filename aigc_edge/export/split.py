"""Exports a component without its timestep-only subgraph, and the schedule that computes the constants; both are verified."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from aigc_edge.bundle.component import Component
from aigc_edge.bundle.spec import BATCH, ComponentSpec, TensorSpec
from aigc_edge.errors import AigcEdgeError, first_line
from aigc_edge.export.onnx import compare as against_torch
from aigc_edge.export.onnx import saved
from aigc_edge.export.schedule import SplitReport, split_schedule
from aigc_edge.export.session import session_of
from aigc_edge.export.shapes import Exportable

Compare = Callable[..., list[dict[str, Any]]]  # (evaluate, description, *, one_timestep, done)


class _Refused(AigcEdgeError):
    """The two files together do not reproduce the whole component."""


@dataclass(frozen=True)
class Split:
    """A component exported as two files: the inputs of the first, the spec of the schedule, the report and its verification."""

    inputs: tuple[TensorSpec, ...]
    schedule: ComponentSpec
    report: SplitReport
    checks: list[dict[str, Any]]

    def components(self, whole: Component, file: str) -> tuple[Component, Component]:
        """The split component, from the `whole` one, and the schedule in `file`.

        The component's own timestep stays among its inputs when the module of its weights takes it.
        """
        inputs = tuple(t for t in whole.spec.inputs if t in self.inputs or whole.weights)
        names = tuple(tensor.name for tensor in whole.spec.inputs)
        rest = whole._replace(
            spec=whole.spec._replace(inputs=(*inputs, *self.schedule.outputs)),
            onnx_inputs=tuple(tensor.name for tensor in self.inputs),
            schedule_constants=asdict(self.report),
            weights=whole.weights._replace(inputs=names) if whole.weights else None,
        )
        return rest, Component(self.schedule, {"fp32": {"file": file}})


def export_split(
    component: Exportable,
    whole: Path,
    denoiser: Path,
    schedule: Path,
    *,
    compare: Compare | None = None,
) -> Split | str:
    """Split the ONNX file `whole` into the files `denoiser` and `schedule`, or return the reason why it stays whole.

    Compared with the module in float64, the error of the two files is at most twice that of torch in float32, on random inputs at
    two batch sizes whose samples share a timestep (or as `compare` allows). No file is written when a reason is returned.
    """
    time = next((t for t in component.spec.inputs if t.role == "timestep"), None)
    if time is None:
        return "it takes no timestep"
    network, constants, report = split_schedule(ir.load(whole), time.name)
    if constants is None:
        return "nothing in it depends on the timestep alone"
    constant_specs = tuple(_constant(value) for value in constants.graph.outputs)
    specs = {t.name: t for t in (*component.spec.inputs, *constant_specs)}
    inputs = tuple(specs[str(value.name)] for value in network.graph.inputs)
    spec = ComponentSpec("schedule", (time,), constant_specs)
    try:
        with saved(constants, schedule) as first, saved(network, denoiser) as second:
            checks = _check(compare or functools.partial(against_torch, component), second, first, spec, inputs)
    except _Refused as error:
        return str(error)
    return Split(inputs, spec, report, checks)


def _check(
    compare: Compare, denoiser: Path, schedule: Path, spec: ComponentSpec, inputs: tuple[TensorSpec, ...]
) -> list[dict[str, Any]]:
    names, time = [t.name for t in spec.outputs], spec.inputs[0].name
    sessions: list[Any] = []

    def evaluate(feeds: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        schedule_session, denoiser_session = sessions
        row = dict(zip(names, schedule_session.run(names, {time: feeds[time][:1]}), strict=True))
        batch = len(feeds[time])
        feeds_with_constants = feeds | {name: np.repeat(value, batch, axis=0) for name, value in row.items()}
        outputs: list[npt.NDArray[Any]] = denoiser_session.run(None, {t.name: feeds_with_constants[t.name] for t in inputs})
        return outputs

    try:
        sessions += [session_of(schedule), session_of(denoiser)]
        return compare(evaluate, "without its schedule", one_timestep=True, done=sessions.clear)
    except Exception as error:  # onnxruntime has its own exceptions; the whole component remains usable in any case
        raise _Refused(first_line(error)) from error


def _constant(value: ir.Value) -> TensorSpec:
    assert value.shape is not None
    return TensorSpec(str(value.name), "constant", "float32", (BATCH, *(int(str(size)) for size in value.shape[1:])))
