"""`engine="auto"`: which engine is fastest for a bundle on this machine, measured once and remembered."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import statistics
import time
from typing import Any

import numpy as np

from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.manifest import Manifest
from aigc_edge.engines.base import ENGINES, Engine, EngineSource, shape_of
from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import cache_folder, write_json
from aigc_edge.hardware import has_vnni

AUTO = "auto"
CANDIDATES = ("onnxruntime", "openvino")  # that run every format on a CPU; a GPU is asked for by name
ROUNDS, SECONDS = 15, 2.0  # at most so many evaluations, or so long an engine


def fastest(bundle: Bundle, format: str, threads: int) -> str:
    """The name of the engine whose evaluations of the bundle's largest network at batch 1 take the least time here.

    Engines take turns, so that what else the machine does hits all alike. The answer is kept in the cache, by the network's hash,
    the CPU, the number of threads and the engines' versions.
    """
    names = [name for name in _candidates(format) if ENGINES[name].unavailable() is None]
    if not names:
        raise AigcEdgeError(f"none of the engines {', '.join(CANDIDATES)} is installed: pip install onnxruntime")
    if len(names) == 1:
        return names[0]
    file, key = cache_folder() / "engines.json", _key(bundle.manifest, format, threads, names)
    known: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(file.read_text(encoding="utf-8"))
    if isinstance(known, dict) and known.get(key) in names:
        return str(known[key])
    seconds = _measure(bundle, format, threads, names)
    chosen = min(seconds, key=lambda name: seconds[name])
    with contextlib.suppress(AigcEdgeError, OSError):  # a cache that cannot be written is no cache
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, (known if isinstance(known, dict) else {}) | {key: chosen})
    return chosen


def _candidates(format: str) -> tuple[str, ...]:
    # On x86 without VNNI OpenVINO's int8 kernels saturate 16-bit sums (NNCF's documentation): not what was measured.
    unsafe = format == "int8" and platform.machine().lower() in ("x86_64", "amd64") and not has_vnni()
    return tuple(name for name in CANDIDATES if not (unsafe and name == "openvino"))


def _key(manifest: Manifest, format: str, threads: int, names: list[str]) -> str:
    from importlib.metadata import version

    files = {name: entry.sha256 for name, entry in manifest.files.items() if name.endswith((".onnx", ".onnx.data"))}
    versions = {name: version(name) for name in names}
    facts = [files, format, threads, versions, platform.machine(), platform.processor(), os.cpu_count()]
    facts += [list(manifest.sample_shape)] if manifest.sizes else []
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _measure(bundle: Bundle, format: str, threads: int, names: list[str]) -> dict[str, float]:
    source = EngineSource.of(bundle, bundle.manifest.main.name, format)
    rng, spec = np.random.default_rng(0), source.spec
    inputs = {t.name: _values(rng, shape_of(t, 1), t.dtype) for t in spec.inputs}
    outputs = {t.name: np.empty(shape_of(t, 1), t.dtype) for t in spec.outputs}
    engines: list[Engine] = [ENGINES[engine].load(source, threads=threads) for engine in names]
    calls = {engine.name: engine.bind(inputs, outputs) for engine in engines}
    taken: dict[str, list[float]] = {engine: [] for engine in calls}
    for call in calls.values():
        call()  # first touch
    end = time.perf_counter() + SECONDS * len(calls)
    for _ in range(ROUNDS):
        for engine, call in calls.items():
            start = time.perf_counter()
            call()
            taken[engine].append(time.perf_counter() - start)
        if time.perf_counter() > end:
            break
    for loaded in engines:
        loaded.close()
    return {engine: statistics.median(values) for engine, values in taken.items()}


def _values(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
    if np.dtype(dtype).kind in "iu":
        return np.zeros(shape, dtype)
    return rng.normal(size=shape).astype(dtype)
