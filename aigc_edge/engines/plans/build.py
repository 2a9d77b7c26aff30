"""The process that builds one plan: `python -m aigc_edge.engines.plans.build JOB`, JOB being JSON (see `plan`).

A separate process, because the builder may exhaust memory, crash or hang, allows one logger per process, and can only be stopped
from outside. It writes a JSON report: what was built and the precision that layers actually run in, or the error message.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

from aigc_edge.engines.plans.log import layers_of, summary
from aigc_edge.engines.plans.module import import_tensorrt
from aigc_edge.engines.plans.options import BuildOptions, apply
from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import atomic_file

# "[pass.cpp:337: name] ", "IBuilder::x: Error Code 1: Myelin (" and ". In compileGraph at file" mean nothing to a user.
_NOISE = re.compile(r"\[?\w+\.cpp:\d+(?:: \w+)?\]?:? ?|[\w:]+: Error Code \d+: (?:\w+ \()?|\.? In \w+ at \S+\)?$")


def build(job: dict[str, Any]) -> dict[str, Any]:
    """Build the plan that `job` describes, write it to job["plan"] and return the report; raises AigcEdgeError."""
    path = Path(job["onnx"])
    trt = import_tensorrt(job["module"])
    what = f"{job['module']} {trt.__version__} cannot build {path.name} for {job['target']} (SM{job['sm']})"
    log = _logger(trt)
    builder = trt.Builder(log)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(path)) or network.num_layers == 0:
        errors = [f"{e.desc()} ({e.node_operator()} {e.node_name()!r})" for e in map(parser.get_error, range(parser.num_errors))]
        raise AigcEdgeError(f"{what}: {_clean(errors or log.errors) or 'it has no layers'}")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    _set_capability(trt, config, job, what)
    options = BuildOptions(**job["options"])
    apply(trt, config, options, what)
    if job["sparse"]:
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    config.add_optimization_profile(_profile(builder, network, job["batches"], job["shapes"]))
    # TensorRT-RTX does not time kernels during the build; its timing-cache calls only warn.
    has_timings = options.timing_cache and job["module"] == "tensorrt" and _load_timings(config, Path(job["timings"]))
    started = time.monotonic()
    plan = builder.build_serialized_network(network, config)
    if plan is None or plan.nbytes == 0:
        raise AigcEdgeError(f"{what}: {_clean(log.errors) or 'the builder gave no reason'}")
    try:
        Path(job["plan"]).write_bytes(plan)
    except OSError as error:
        advice = "free some space, or set XDG_CACHE_HOME to another folder"
        raise AigcEdgeError(f"the plan of {plan.nbytes} bytes cannot be written ({error.strerror}): {advice}") from error
    if has_timings:
        _save_timings(config, Path(job["timings"]))
    return {
        "module": job["module"],
        "version": trt.__version__,
        "sm": job["sm"],
        "batches": job["batches"],
        "plan_bytes": plan.nbytes,
        "seconds": round(time.monotonic() - started, 2),
        "tf32": bool(config.get_flag(trt.BuilderFlag.TF32)),
        "precision": summary(layers_of(log.lines)),
    }


def _network_flags(trt: Any) -> int:
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # always on in TensorRT 11
    return 0 if flag is None else 1 << int(flag)


def _set_capability(trt: Any, config: Any, job: dict[str, Any], what: str) -> None:
    # Without this, FP8 and FP4 graphs build without a warning for GPUs that cannot run them.
    if not hasattr(config, "set_compute_capability"):
        return  # full TensorRT builds for the device that it runs on
    config.num_compute_capabilities = 1
    capability = getattr(trt.ComputeCapability, f"SM{job['sm']}", None)
    if capability is None or not config.set_compute_capability(capability, 0):
        raise AigcEdgeError(f"{what}: it does not support SM{job['sm']}; build on the device itself with NVIDIA's full TensorRT")


def _profile(builder: Any, network: Any, batches: list[int], shapes: dict[str, list[list[int]]]) -> Any:
    profile = builder.create_optimization_profile()
    for tensor in map(network.get_input, range(network.num_inputs)):
        if -1 in tuple(tensor.shape):
            fixed = tuple(tensor.shape)[1:]
            low, best, high = shapes.get(tensor.name) or [[batch, *fixed] for batch in batches]
            if -1 in low:  # where onnx is not installed this was not checked before
                raise AigcEdgeError(
                    f"the input {tensor.name!r} has a dynamic dimension other than the batch: export it with static shapes"
                )
            profile.set_shape(tensor.name, low, best, high)
    return profile


def _logger(trt: Any) -> Any:
    class Log(trt.ILogger):
        """Keeps all messages: the layer table is logged at verbose level."""

        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.lines.append(message)
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

    return Log()


def _clean(messages: list[str]) -> str:
    cleaned = (_NOISE.sub("", message).strip() for message in messages[:3])
    return "; ".join(dict.fromkeys(text if text.count("(") == text.count(")") else text.rstrip(")") for text in cleaned))


def _limit_memory(limit: int) -> None:
    try:
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    except (ImportError, OSError, ValueError):
        print("the memory limit could not be set", file=sys.stderr)


def _load_timings(config: Any, file: Path) -> bool:
    """Load the timing cache from `file`, or an empty one, into the builder; returns whether the builder accepts one."""
    data = b""
    with contextlib.suppress(OSError):
        data = file.read_bytes()
    for content in dict.fromkeys((data, b"")):  # a cache of another version or device is rejected: use an empty one
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return True
    return False


def _save_timings(config: Any, file: Path) -> None:
    """Save the builder's measurements; a write error does not fail the build."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    with contextlib.suppress(OSError, AigcEdgeError), atomic_file(file) as part:
        part.write_bytes(bytes(cache.serialize()))


def _die_with_parent() -> None:
    with contextlib.suppress(OSError, AttributeError):  # Linux alone
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def main(arguments: list[str]) -> int:
    """Run one job; returns 0 when plan and report were written, 3 when the report contains an error."""
    job = json.loads(arguments[0])
    _die_with_parent()
    if job["limit_data"]:
        _limit_memory(job["memory"])
    try:
        report, status = build(job), 0
    except (AigcEdgeError, OSError, MemoryError) as error:
        report, status = {"error": str(error) or type(error).__name__}, 3
    Path(job["report"]).write_text(json.dumps(report))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
