"""Engine files of a bundle: a plan for each component, format and GPU target that this machine can build for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

from aigc_edge.bundle.component import PlanEntry
from aigc_edge.compile.state import CompileState
from aigc_edge.engines.base import made_as
from aigc_edge.engines.plans.limits import sentences
from aigc_edge.engines.plans.plan import BATCHES, PlanRequest, TensorRTPlan, build_plan, shapes_of

SHOWN = ("layers", "macs_share", "as_asked")  # members of the build report that the manifest repeats


def build_engines(state: CompileState) -> None:
    """Build the plans of the request; targets of one compute capability share a file."""
    state.start("building engines")
    plans = [(part, target, name) for target, name in state.request.plans for part in state.networks]
    for index, (part, target, name) in enumerate(plans):
        assert target.sm is not None
        component = state.components[part]
        network = component.file(name, "tensorrt")
        shapes = shapes_of(component.onnx, state.manifest.sizes, BATCHES)
        request = PlanRequest(state.folder / network, made_as(network, name), target.sm, target.name, shapes=shapes)
        plan = build_plan(request, waiting=share_of(index, len(plans), state.clock.advance))
        same = [entry.file for entry in component.engines if (entry.sm, entry.format) == (target.sm, name)]
        file = same[0] if same else f"engines/{part}.{name}.{target.name}.plan"
        state.files[file] = plan.file
        entry = plan_entry(plan, file, target.name, name)
        state.files[entry.report] = sidecar(plan)
        state.components[part] = component._replace(engines=(*component.engines, entry))
        state.clock.advance((index + 1) / len(plans))


def plan_entry(plan: TensorRTPlan, file: str, target: str, format: str) -> PlanEntry:
    """The manifest's entry of a plan: its file, its device, the precision that the build log shows, and deviations from it."""
    report = plan.report
    return PlanEntry(
        "tensorrt",
        format,
        target,
        file,
        report["sm"],
        plan.built_with,
        tuple(report["batches"]),
        report.get("device") or "",
        report.get("options") or {},
        precision={key: report["precision"][key] for key in SHOWN},
        expected=tuple(limit | {"layers": len(limit["layers"])} for limit in report["expected"]),
        surprises=tuple(sentences(report)),
    )


def sidecar(plan: TensorRTPlan) -> bytes:
    """The build report of a plan as JSON, stored beside it in the bundle."""
    return json.dumps(plan.report, indent=1).encode()


def share_of(index: int, count: int, advance: Callable[[float], None]) -> Callable[[float, float], None]:
    """A progress callback for building plan `index` of `count`: approaches the plan's share as the typical time elapses."""

    def waiting(elapsed: float, typical: float) -> None:
        share = elapsed / max(typical, 1e-3)
        advance((index + (0.9 * share if share < 1 else 1 - 0.1 * math.exp(1 - share))) / count)

    return waiting
