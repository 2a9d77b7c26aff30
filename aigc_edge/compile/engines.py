"""Engine files of a bundle: a plan for each component, format and GPU target that can be built for here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from aigc_edge.bundle.sizes import sizes_of
from aigc_edge.bundle.spec import ComponentSpec
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
        entry = work.components[part]
        files = entry["formats"][name]
        network = files.get("tensorrt", files["file"])
        shapes = shapes_of(ComponentSpec.from_json(part, entry), sizes_of(work.manifest), BATCHES)
        request = PlanRequest(work.folder / network, made_as(network, name), target.sm, target.name, shapes=shapes)
        plan = build_plan(request, waiting=share_of(index, len(wanted), work.clock.advance))
        same = [e["file"] for e in entry["engines"] if (e["sm"], e["format"]) == (target.sm, name)]
        file = same[0] if same else f"engines/{part}.{name}.{target.name}.plan"
        work.files[file] = plan.file
        work.files[sidecar_of(file)] = sidecar(plan)
        entry["engines"].append(engine_entry(plan, file, target.name, name))
        work.clock.advance((index + 1) / len(wanted))


def engine_entry(plan: TensorRTPlan, file: str, target: str, format: str) -> dict[str, Any]:
    """What the manifest says of a plan: where it is, what it runs on, what the build log proves and what it does not hold."""
    report = plan.report
    entry = {"engine": "tensorrt", "format": format, "target": target, "sm": report["sm"], "file": file}
    entry |= {"built_with": plan.built_with, "batches": report["batches"]}
    entry |= {key: report[key] for key in ("device", "options") if report.get(key)}
    entry["precision"] = {key: report["precision"][key] for key in SHOWN}
    entry["expected"] = [found | {"layers": len(found["layers"])} for found in report["expected"]]
    return entry | {"surprises": sentences(report)}


def sidecar(plan: TensorRTPlan) -> bytes:
    """The report of a plan, as it stands beside it in the bundle."""
    return json.dumps(plan.report, indent=1).encode()


def sidecar_of(file: str) -> str:
    """The name of the report beside the plan `file`."""
    return file.removesuffix("plan") + "json"


def share_of(index: int, count: int, advance: Callable[[float], None]) -> Callable[[float, float], None]:
    """Progress while plan `index` of `count` is built: it nears its end as the typical time goes by, and never passes it."""

    def waiting(elapsed: float, typical: float) -> None:
        gone = elapsed / max(typical, 1e-3)
        advance((index + (0.9 * gone if gone < 1 else 1 - 0.1 * math.exp(1 - gone))) / count)

    return waiting
