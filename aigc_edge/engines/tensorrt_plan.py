"""Builds TensorRT plans in a process of their own, within memory and time, and keeps them in a cache keyed by content."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import aigc_edge
from aigc_edge import targets
from aigc_edge.bundle.sizes import Size, at
from aigc_edge.bundle.spec import ComponentSpec
from aigc_edge.config import to_dict
from aigc_edge.engines import cuda_driver
from aigc_edge.engines.cache import cache_limit
from aigc_edge.engines.tensorrt_cache import evict, find, plans_folder, timings_file, typical_seconds
from aigc_edge.engines.tensorrt_graph import Shapes, check_model
from aigc_edge.engines.tensorrt_job import machine_gb, run_job
from aigc_edge.engines.tensorrt_limits import compared, expected, prove, with_outputs
from aigc_edge.engines.tensorrt_module import import_tensorrt
from aigc_edge.engines.tensorrt_options import BuildOptions, check_options
from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import atomic_file, sha256_of, write_json

BATCHES = (1, 2, 32)  # guidance doubles the batch: two is what one sample takes
BUILD_VERSION = 4  # raise it when the same inputs would be built differently
DEFAULT_SECONDS = 900.0
SPARSE = "sparse24"  # the format whose zeros the builder is to look for
Waiting = Callable[[float, float], None]  # seconds gone, seconds that it may take in all
_PACKAGES = {
    "tensorrt_rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
}


@dataclass(frozen=True)
class PlanRequest:
    """What to build: an ONNX file in one format, for the compute capability `sm`, for batches (min, best, max).

    `shapes` gives the least, best and largest shape of inputs that have further dynamic sizes. `device` is the model of GPU that
    a plan of the full TensorRT belongs to.
    """

    onnx: Path
    format: str
    sm: int
    target: str
    module: str = "tensorrt_rtx"
    batches: tuple[int, int, int] = BATCHES
    device: str = ""
    options: BuildOptions = field(default_factory=BuildOptions)
    shapes: Shapes = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A built plan: its file in the cache, and the report that stands beside it as JSON."""

    file: Path
    report: dict[str, Any]

    @property
    def built_with(self) -> str:
        return f"{self.report['module']} {self.report['version']}"


def shapes_of(spec: ComponentSpec, sizes: Sequence[Size], batches: tuple[int, int, int]) -> Shapes:
    """The profile of a network that serves several image sizes: from the least to the largest of each side, the first the best.

    Empty without sizes: then the batch alone is dynamic.
    """
    found = {}
    for tensor in spec.inputs if sizes else ():
        at_each = [[int(d) for d in at(tensor.shape[1:], size)] for size in sizes]
        low, high = ([function(lengths) for lengths in zip(*at_each, strict=True)] for function in (min, max))
        found[tensor.name] = [[batch, *sides] for batch, sides in zip(batches, (low, at_each[0], high), strict=True)]
    return found


def build_plan(
    request: PlanRequest,
    *,
    cache: Path | None = None,
    cache_gb: float | None = None,
    memory_gb: float | None = None,
    seconds: float = DEFAULT_SECONDS,
    force: bool = False,
    waiting: Waiting | None = None,
) -> Plan:
    """Return the plan for `request` from the cache, building it there first when it is missing (or anyway with `force`).

    `memory_gb` limits the builder's memory (None: three quarters of the machine's), `seconds` its time, `cache_gb` what the
    plans in the cache may take (None: $AIGC_EDGE_PLAN_CACHE_GB, else 20). `waiting(elapsed, typical)` is called meanwhile.
    Raises AigcEdgeError, one sentence, when the file is no usable ONNX, the target cannot run it, the asked precision shows up in
    no layer, or the build fails, is killed or takes too long; what was in the cache stays there.
    """
    low, best, high = request.batches
    if not 1 <= low <= best <= high:
        raise AigcEdgeError(f"batches {low}, {best}, {high} given: they must be 1 <= min <= best <= max")
    target, limit = targets.of_gpu(request.target, request.sm), cache_limit(cache_gb)
    check_options(request.options, request.module, target, driver=cuda_driver.device() is not None)
    digests = _digests(request.onnx)
    file = (cache or plans_folder()) / f"{_key(request, digests)}.plan"
    report = None if force else find(file)
    if report is None:
        check_version(request.module, target)
        asked = check_model(request.onnx, request.shapes)
        foreseen = expected(target, asked, request.onnx.name, request.module)
        typical = typical_seconds(file.parent, request.module, request.onnx.stat().st_size)
        with atomic_file(file) as part:
            report = _run(request, part, memory_gb or machine_gb() * 0.75, seconds, waiting, typical)
            report |= {"format": request.format, "target": request.target, "device": request.device}
            report |= {"shapes": dict(request.shapes)} if request.shapes else {}
            report |= {"options": request.options.asked, "onnx_sha256": digests[0], "onnx_bytes": request.onnx.stat().st_size}
            facts = compared(asked, report["precision"]["table"], foreseen)
            report["precision"]["as_asked"] = facts["as_asked"]
            report["precision"]["table"] = with_outputs(asked, report["precision"]["table"])
            report |= {"expected": foreseen, "surprises": facts["surprises"], "plan_sha256": sha256_of(part)}
            write_json(file.with_suffix(".json"), report)  # before the plan: a plan without its report does not exist
        evict(file.parent, limit, file)
    prove(request.format, request.target, request.onnx.name, report["precision"], report["surprises"])
    return Plan(file, report)


def check_version(module: str, target: targets.Target | None) -> None:
    """Raise AigcEdgeError when the installed module is older than the first one that serves the target."""
    have = module_version(module)
    if target is None or target.flavour != module or target.least is None or not have:
        return
    if _numbers(have) < _numbers(target.least):
        raise AigcEdgeError(
            f"{module} {have} is too old for {target.name}: install {target.least} or newer (up to {target.most})"
        )


def module_version(module: str) -> str:
    """The version of one of the two modules as it is installed here, as the module itself says it; "" where it is not."""
    for package in _PACKAGES.get(module, ()):
        try:
            return re.sub(r"\.?(post|dev|rc|\+).*", "", version(package))  # what packagers add
        except PackageNotFoundError:
            continue
    try:
        return str(import_tensorrt(module).__version__)  # from the system's packages, as JetPack installs it
    except AigcEdgeError:
        return ""


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def _digests(onnx: Path) -> list[str]:
    """SHA-256 of the ONNX file, and of the weights beside it when it is a huge model."""
    try:
        if onnx.stat().st_size == 0:
            raise AigcEdgeError(f"{onnx.name} is empty: export the network again")
        return [sha256_of(path) for path in (onnx, onnx.with_name(f"{onnx.name}.data")) if path.exists()]
    except OSError as error:
        raise AigcEdgeError(f"cannot read {onnx}: {error.strerror}; export the network again") from error


def _key(request: PlanRequest, digests: list[str]) -> str:
    found = [BUILD_VERSION, digests, request.format, request.sm, request.module, request.batches, request.options.asked]
    found += [sorted(request.shapes.items()), module_version(request.module), aigc_edge.__version__, request.device]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:32]


def _run(
    request: PlanRequest, part: Path, memory_gb: float, seconds: float, waiting: Waiting | None, typical: float
) -> dict[str, Any]:
    report = part.with_suffix(".report")
    driver = cuda_driver.device() is not None
    device = re.sub(r"[^a-z0-9]+", "-", f"{request.device or request.sm}".lower())
    job = {
        "module": request.module,
        "onnx": str(request.onnx.resolve()),
        "plan": str(part.resolve()),
        "report": str(report.resolve()),
        "sm": request.sm,
        "target": request.target,
        "batches": list(request.batches),
        "shapes": {name: [list(shape) for shape in three] for name, three in request.shapes.items()},
        "sparse": request.format == SPARSE,
        "options": to_dict(request.options),
        "timings": str(timings_file(f"{request.module}-{module_version(request.module)}-{device}")),
        "memory": int(memory_gb * 2**30),
        "limit_data": not driver,  # a driver maps far more than it uses
    }
    try:
        tell = None if waiting is None else lambda elapsed: waiting(elapsed, typical)
        return run_job(job, f"building {request.onnx.name} for {request.target}", report, seconds=seconds, waiting=tell)
    finally:
        report.unlink(missing_ok=True)
