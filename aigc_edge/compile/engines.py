"""Engine files of a bundle: a plan for each component, format and GPU target that can be built for here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

from aigc_edge.bundle.component import PlanEntry
from aigc_edge.compile.work import Work
from aigc_edge.engines.base import made_as
from aigc_edge.engines.tensorrt_limits import sentences
from aigc_edge.engines.tensorrt_plan import BATCHES, PlanRequest, TensorRTPlan, build_plan, shapes_of

SHOWN = ("layers", "macs_share", "as_asked")  # of what a build log proves, the part that the manifest repeats


def build_engines(work: Work) -> None:
    """Build the plans that the request asks for; targets of one capability share a file."""
    work.start("building engines")
    wanted = [(part, target, name) for target, name in work.request.plans for part in work.networks]
    for index, (part, target, name) in enumerate(wanted):
        assert target.sm is not None
        component = work.components[part]
        network = component.file(name, "tensorrt")
        shapes = shapes_of(component.onnx, work.manifest.sizes, BATCHES)
        request = PlanRequest(work.folder / network, made_as(network, name), target.sm, target.name, shapes=shapes)
        plan = build_plan(request, waiting=share_of(index, len(wanted), work.clock.advance))
        same = [entry.file for entry in component.engines if (entry.sm, entry.format) == (target.sm, name)]
        file = same[0] if same else f"engines/{part}.{name}.{target.name}.plan"
        work.files[file] = plan.file
        entry = plan_entry(plan, file, target.name, name)
        work.files[entry.report] = sidecar(plan)
        work.components[part] = replace(component, engines=(*component.engines, entry))
        work.clock.advance((index + 1) / len(wanted))


def plan_entry(plan: TensorRTPlan, file: str, target: str, format: str) -> PlanEntry:
    """The manifest's entry of a plan: its file, what it runs on, what the build log proves and what it does not hold."""
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
    """The report of a plan, as it stands beside it in the bundle."""
    return json.dumps(plan.report, indent=1).encode()


def share_of(index: int, count: int, advance: Callable[[float], None]) -> Callable[[float, float], None]:
    """Progress while plan `index` of `count` is built: it nears its end as the typical time goes by, and never passes it."""

    def waiting(elapsed: float, typical: float) -> None:
        gone = elapsed / max(typical, 1e-3)
        advance((index + (0.9 * gone if gone < 1 else 1 - 0.1 * math.exp(1 - gone))) / count)

    return waiting
