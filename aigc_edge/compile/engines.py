"""Engine files of a bundle: a plan for each component, format and GPU target that can be built for here."""

from __future__ import annotations

import json

from aigc_edge.compile.work import Work
from aigc_edge.engines.tensorrt_plan import PlanRequest, build_plan


def build_engines(work: Work) -> None:
    """Build the plans that the request asks for; targets of one capability share a file."""
    work.clock.start("building engines")
    wanted = [(part, target, name) for target, name in work.request.plans for part in work.networks]
    for index, (part, target, name) in enumerate(wanted):
        assert target.sm is not None
        entry = work.components[part]
        files = entry["formats"][name]
        request = PlanRequest(work.folder / files.get("tensorrt", files["file"]), name, target.sm, target.name)
        plan = build_plan(request)
        same = [e["file"] for e in entry["engines"] if (e["sm"], e["format"]) == (target.sm, name)]
        file = same[0] if same else f"engines/{part}.{name}.{target.name}.plan"
        work.files[file] = plan.file
        work.files[file.removesuffix("plan") + "json"] = json.dumps(plan.report, indent=1).encode()
        found = {"engine": "tensorrt", "format": name, "target": target.name, "sm": target.sm, "file": file}
        found |= {"built_with": plan.built_with, "batches": plan.report["batches"]}
        entry["engines"].append(found | {"precision": {k: plan.report["precision"][k] for k in ("layers", "macs_share")}})
        work.tell(index + 1, len(wanted))
