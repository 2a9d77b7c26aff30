"""Builds TensorRT plans in a separate process with memory and time limits, and caches them by content."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aigc_edge
from aigc_edge import targets
from aigc_edge.bundle.sizes import Size, at
from aigc_edge.bundle.spec import ComponentSpec
from aigc_edge.config import to_dict
from aigc_edge.engines import cuda_driver
from aigc_edge.engines.cache import cache_limit
from aigc_edge.engines.plans.cache import evict, find, plans_folder, store, timings_file, typical_seconds
from aigc_edge.engines.plans.graph import Shapes, check_model
from aigc_edge.engines.plans.job import machine_gb, run_job
from aigc_edge.engines.plans.limits import check_precision, compare_with_log, expected_fallbacks, with_outputs
from aigc_edge.engines.plans.module import module_version
from aigc_edge.engines.plans.options import BuildOptions, check_options
from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import atomic_file, sha256_of

BATCHES = (1, 2, 32)  # guidance doubles the batch: one sample takes two
BUILD_VERSION = 4  # increase it when the same inputs would produce a different plan
DEFAULT_SECONDS = 900.0
SPARSE = "sparse24"  # the format with structured zeros that the builder should exploit
Waiting = Callable[[float, float], None]  # elapsed seconds, expected total seconds


@dataclass(frozen=True)
class PlanRequest:
    """What to build: an ONNX file in one format, for the compute capability `sm`, for batches (min, opt, max).

    `shapes` contains the min, opt and max shapes of inputs with further dynamic dimensions. `device` is the GPU model that a plan
    of full TensorRT is bound to.
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
class TensorRTPlan:
    """A built plan: its file in the cache, and its report, stored beside it as JSON."""

    file: Path
    report: dict[str, Any]

    @property
    def built_with(self) -> str:
        return f"{self.report['module']} {self.report['version']}"


def shapes_of(spec: ComponentSpec, sizes: Sequence[Size], batches: tuple[int, int, int]) -> Shapes:
    """The optimisation profile for several image sizes: min and max of each side, opt is the first size.

    Empty without sizes: then only the batch is dynamic.
    """
    shapes = {}
    for tensor in spec.inputs if sizes else ():
        sides_at_sizes = [[int(d) for d in at(tensor.shape[1:], size)] for size in sizes]
        low, high = ([function(lengths) for lengths in zip(*sides_at_sizes, strict=True)] for function in (min, max))
        shapes[tensor.name] = [[batch, *sides] for batch, sides in zip(batches, (low, sides_at_sizes[0], high), strict=True)]
    return shapes


def build_plan(
    request: PlanRequest,
    *,
    cache: Path | None = None,
    cache_gb: float | None = None,
    memory_gb: float | None = None,
    seconds: float = DEFAULT_SECONDS,
    force: bool = False,
    waiting: Waiting | None = None,
) -> TensorRTPlan:
    """Return the plan for `request` from the cache, building it first if it is missing (or always with `force`).

    `memory_gb` limits the builder's memory (None: three quarters of the machine's), `seconds` its time, `cache_gb` what the
    size of the plan cache (None: $AIGC_EDGE_PLAN_CACHE_GB, else 20). `waiting(elapsed, typical)` is called periodically.
    Raises AigcEdgeError when the ONNX file is not usable, the target cannot run it, no layer runs in the requested precision, or
    the build fails, is killed or times out; the cache is left unchanged then.
    """
    low, best, high = request.batches
    if not 1 <= low <= best <= high:
        raise AigcEdgeError(f"batches are {low}, {best}, {high}: they must satisfy 1 <= min <= opt <= max")
    target, limit = targets.of_gpu(request.target, request.sm), cache_limit(cache_gb)
    check_options(request.options, request.module, target, driver=cuda_driver.device() is not None)
    digests = _digests(request.onnx)
    file = (cache or plans_folder()) / f"{_key(request, digests)}.plan"
    report = None if force else find(file)
    if report is None:
        check_version(request.module, target)
        requested = check_model(request.onnx, request.shapes)
        expected = expected_fallbacks(target, requested, request.onnx.name, request.module)
        typical = typical_seconds(file.parent, request.module, request.onnx.stat().st_size)
        with atomic_file(file, durable=True) as part:
            report = _run(request, part, memory_gb or machine_gb() * 0.75, seconds, waiting, typical)
            report |= {"format": request.format, "target": request.target, "device": request.device}
            report |= {"shapes": dict(request.shapes)} if request.shapes else {}
            report |= {
                "options": request.options.non_default,
                "onnx_sha256": digests[0],
                "onnx_bytes": request.onnx.stat().st_size,
            }
            comparison = compare_with_log(requested, report["precision"]["table"], expected)
            report["precision"]["as_asked"] = comparison["as_asked"]
            report["precision"]["table"] = with_outputs(requested, report["precision"]["table"])
            report |= {"expected": expected, "surprises": comparison["surprises"], "plan_sha256": sha256_of(part)}
            store(file, report)  # before the plan: a plan is never without its report
        evict(file.parent, limit, file)
    check_precision(request.format, request.target, request.onnx.name, report["precision"], report["surprises"])
    return TensorRTPlan(file, report)


def check_version(module: str, target: targets.Target | None) -> None:
    """Raise AigcEdgeError when the installed module is older than the first that supports the target."""
    installed = module_version(module)
    if target is None or target.flavour != module or target.least is None or not installed:
        return
    if _numbers(installed) < _numbers(target.least):
        raise AigcEdgeError(
            f"{module} {installed} is too old for {target.name}: install {target.least} or newer (up to {target.most})"
        )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def _digests(onnx: Path) -> list[str]:
    """SHA-256 of the ONNX file, and of its external weights, if any."""
    try:
        if onnx.stat().st_size == 0:
            raise AigcEdgeError(f"{onnx.name} is empty: export the network again")
        return [sha256_of(path) for path in (onnx, onnx.with_name(f"{onnx.name}.data")) if path.exists()]
    except OSError as error:
        raise AigcEdgeError(f"cannot read {onnx}: {error.strerror}; export the network again") from error


def _key(request: PlanRequest, digests: list[str]) -> str:
    inputs = [BUILD_VERSION, digests, request.format, request.sm, request.module, request.batches, request.options.non_default]
    inputs += [sorted(request.shapes.items()), module_version(request.module), aigc_edge.__version__, request.device]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:32]


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
        "shapes": {name: [list(shape) for shape in profile] for name, profile in request.shapes.items()},
        "sparse": request.format == SPARSE,
        "options": to_dict(request.options),
        "timings": str(timings_file(f"{request.module}-{module_version(request.module)}-{device}")),
        "memory": int(memory_gb * 2**30),
        "limit_data": not driver,  # the driver maps far more memory than it uses
    }
    try:
        callback = None if waiting is None else lambda elapsed: waiting(elapsed, typical)
        return run_job(job, f"building {request.onnx.name} for {request.target}", report, seconds=seconds, waiting=callback)
    finally:
        report.unlink(missing_ok=True)
