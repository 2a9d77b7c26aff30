"""Builds TensorRT plans in a process of their own, within memory and time, and keeps them in a cache keyed by content."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import aigc_edge
from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import atomic_file, cache_folder, write_json

BUILD_VERSION = 1  # raise it when the same inputs would be built differently
DEFAULT_SECONDS = 900.0
_PROVEN = ("fp16", "bf16", "int8", "fp8")  # formats whose precision must show up in the build log
# What a process says, in Python, C++ and the loader of libraries, that may not have more.
_OUT_OF_MEMORY = re.compile(r"bad_alloc|MemoryError|failed to map segment|[Cc]annot allocate memory|[Oo]ut of memory")
_PACKAGES = {"tensorrt_rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"), "tensorrt": ("tensorrt",)}


@dataclass(frozen=True)
class PlanRequest:
    """What to build: an ONNX file in one format, for the compute capability `sm`, for batches (min, best, max)."""

    onnx: Path
    format: str
    sm: int
    target: str
    module: str = "tensorrt_rtx"
    batches: tuple[int, int, int] = (1, 2, 32)  # guidance doubles the batch: two is what one sample takes
    device: str = ""  # the full TensorRT's plans belong to one model of device


@dataclass(frozen=True)
class Plan:
    """A built plan: its file in the cache, and the report that stands beside it as JSON."""

    file: Path
    report: dict[str, Any]

    @property
    def built_with(self) -> str:
        return f"{self.report['module']} {self.report['version']}"


def build_plan(
    request: PlanRequest, *, cache: Path | None = None, memory_gb: float | None = None, seconds: float = DEFAULT_SECONDS
) -> Plan:
    """Return the plan for `request` from the cache, building it there first when it is missing.

    `memory_gb` limits the builder's memory (None: three quarters of the machine's), `seconds` its time. Raises AigcEdgeError, one
    sentence, when the file is no usable ONNX, the target cannot run it, the asked precision shows up in no layer, or the build
    fails, is killed or takes too long.
    """
    low, best, high = request.batches
    if not 1 <= low <= best <= high:
        raise AigcEdgeError(f"batches {low}, {best}, {high} given: they must be 1 <= min <= best <= max")
    digests = _digests(request.onnx)
    file = (cache or cache_folder() / "plans") / f"{_key(request, digests)}.plan"
    plan = _cached(file)
    if plan is None:
        memory = int((memory_gb or _machine_gb() * 0.75) * 2**30)
        with atomic_file(file) as part:
            report = _run(request, part, memory, seconds)
            report |= {"format": request.format, "target": request.target, "onnx_sha256": digests[0]}
            report["plan_sha256"] = _sha256(part)
            write_json(file.with_suffix(".json"), report)  # before the plan: a plan without its report does not exist
        plan = Plan(file, report)
    _prove(request, plan.report)
    return plan


def _digests(onnx: Path) -> list[str]:
    """SHA-256 of the ONNX file, and of the weights beside it when it is a huge model."""
    try:
        if onnx.stat().st_size == 0:
            raise AigcEdgeError(f"{onnx.name} is empty: export the network again")
        return [_sha256(path) for path in (onnx, onnx.with_name(f"{onnx.name}.data")) if path.exists()]
    except OSError as error:
        raise AigcEdgeError(f"cannot read {onnx}: {error.strerror}; export the network again") from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _key(request: PlanRequest, digests: list[str]) -> str:
    found = [BUILD_VERSION, digests, request.format, request.sm, request.module, request.batches]
    found += [_module_version(request.module), aigc_edge.__version__, request.device]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:32]


def _module_version(module: str) -> str:
    for package in _PACKAGES.get(module, ()):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return ""


def _cached(file: Path) -> Plan | None:
    try:
        report = json.loads(file.with_suffix(".json").read_text())
        intact = _sha256(file) == report["plan_sha256"]
    except (OSError, ValueError, KeyError):
        return None
    return Plan(file, report) if intact else None


def _run(request: PlanRequest, part: Path, memory: int, seconds: float) -> dict[str, Any]:
    report = part.with_suffix(".report")
    job = {
        "module": request.module,
        "onnx": str(request.onnx.resolve()),
        "plan": str(part.resolve()),
        "report": str(report.resolve()),
        "sm": request.sm,
        "target": request.target,
        "batches": list(request.batches),
        "memory": memory,
    }
    what = f"building {request.onnx.name} for {request.target}"
    try:
        done = subprocess.run(
            _command(job), env=_environment(), capture_output=True, text=True, errors="replace", timeout=seconds
        )
        found: dict[str, Any] = json.loads(report.read_text()) if report.is_file() else {}
    except subprocess.TimeoutExpired:
        message = f"{what} took longer than {seconds:g} s and was stopped: allow more time or build on a faster machine"
        raise AigcEdgeError(message) from None
    finally:
        report.unlink(missing_ok=True)
    limit = f"its memory limit of {memory / 2**30:.3g} GB"
    if done.returncode and _OUT_OF_MEMORY.search(f"{found.get('error', '')} {done.stderr}"):
        raise AigcEdgeError(f"{what} reached {limit}: allow more memory or build on a larger machine")
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise AigcEdgeError(f"{what} was killed ({name}): most often memory ran out; free some or build on a larger machine")
    if "error" in found:
        raise AigcEdgeError(str(found["error"]))
    if done.returncode or not found:
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise AigcEdgeError(f"{what} failed with exit code {done.returncode}: {last}")
    return found


def _command(job: dict[str, Any]) -> list[str]:
    return [sys.executable, "-m", "aigc_edge.engines.tensorrt_build", json.dumps(job)]


def _environment() -> dict[str, str]:
    # The child must find the very package that runs here, however the parent found it.
    root = str(Path(aigc_edge.__file__).resolve().parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))}


def _machine_gb() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return 16.0


def _prove(request: PlanRequest, report: dict[str, Any]) -> None:
    layers: dict[str, int] = report["precision"]["layers"]
    if request.format in _PROVEN and request.format not in layers:
        found = ", ".join(f"{n} in {precision}" for precision, n in layers.items()) or "none at all"
        raise AigcEdgeError(
            f"{request.format} was asked for {request.target}, but no convolution or matrix product of {request.onnx.name} runs "
            f"in it there ({found}): choose another format for this target"
        )
