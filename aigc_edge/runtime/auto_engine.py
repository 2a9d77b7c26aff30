"""`engine="auto"`: which engine is fastest for each network of a bundle on this machine, measured once and remembered."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.component import Component
from aigc_edge.bundle.manifest import Manifest
from aigc_edge.engines.base import ENGINES, EXACT, Engine, EngineSource, load_engine, made_as, shape_of
from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import cache_folder, write_json
from aigc_edge.hardware import processor_features
from aigc_edge.runtime.precision import DEFAULT, precision_of

ROUNDS, SECONDS = 15, 2.0  # upper limits per engine: evaluations, and time


def fastest(
    bundle: Bundle,
    format: str,
    threads: int,
    *,
    component: str = "",
    precision: str = DEFAULT,
    check: Callable[[str], None] = lambda engine: None,
) -> str:
    """The name of the engine whose evaluations of a component ("": the one that generates) at batch 1 take the least time here.

    Each engine computes as it would for `precision`; one that does not have it is left out. Engines take turns, so that other
    load on the machine affects all alike. The result is cached by the networks' hashes, the component, the CPU, the number of
    threads, the precisions and the versions of the engines. `check` is called for each engine before its network is loaded.
    """
    component = component or bundle.manifest.main.name
    network, used = bundle.manifest.components[component], {}
    names = candidates(network, format)
    for name in names:
        with contextlib.suppress(AigcEdgeError):
            used[name] = precision_of(bundle.manifest, format, name, precision)
    if names and not used:
        raise AigcEdgeError(f"no engine that 'auto' chooses from computes in {precision} on this CPU: choose another precision")
    names = list(used)
    if not names:
        raise AigcEdgeError("no engine that 'auto' chooses from is installed: pip install onnxruntime")
    if len(names) == 1:
        return names[0]
    file, key = cache_folder() / "engines.json", _key(bundle.manifest, format, threads, used, component)
    known = _remembered(file)
    for name in names:
        if known.get(key) == _entry(key, name):
            return name
    for name in names:
        check(name)
    seconds = _measure(bundle, format, threads, names, component=component, precisions=used)
    chosen = min(seconds, key=lambda name: seconds[name])
    with contextlib.suppress(AigcEdgeError, OSError):  # a cache that cannot be written is no cache
        file.parent.mkdir(parents=True, exist_ok=True)
        # Read again: other processes, and other components, were measured meanwhile.
        write_json(file, _remembered(file) | {key: _entry(key, chosen)}, durable=True)
    return chosen


def _remembered(file: Path) -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(file.read_text(encoding="utf-8"))
        return known if isinstance(known, dict) else {}
    return {}


def _entry(key: str, name: str) -> str:
    return f"{name} {hashlib.sha256(f'{key} {name}'.encode()).hexdigest()[:16]}"  # what was damaged on the disk is measured again


def candidates(network: Component, format: str) -> list[str]:
    """The engines that may run a network of a bundle in this format here, in order of their names: a GPU is asked for by name."""
    engines = {name: ENGINES[name] for name in ENGINES}
    usable = {name: engine for name, engine in engines.items() if engine.auto and "cpu" in engine.devices}
    installed = {name: engine for name, engine in usable.items() if engine.unavailable() is None}
    # A component of an int8 bundle may be in int8w: kernels follow from the file.
    return [name for name, engine in installed.items() if engine.deviates(made_as(network.file(format, name), format)) is None]


def _key(manifest: Manifest, format: str, threads: int, used: Mapping[str, str], component: str) -> str:
    files = {name: entry.sha256 for name, entry in manifest.files.items() if name.endswith((".onnx", ".onnx.data"))}
    versions = {name: [_version(name), precision] for name, precision in used.items()}
    facts = [
        files,
        component,
        format,
        threads,
        versions,
        processor_features(),
        platform.machine(),
        platform.processor(),
        os.cpu_count(),
    ]
    facts += [list(manifest.sample_shape)] if manifest.sizes else []
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    for distribution in (name, ENGINES[name].__module__.partition(".")[0]):
        with contextlib.suppress(PackageNotFoundError):
            return version(distribution)
    return ""


def _measure(
    bundle: Bundle,
    format: str,
    threads: int,
    names: list[str],
    *,
    component: str = "",
    precisions: Mapping[str, str] | None = None,
) -> dict[str, float]:
    source = EngineSource.of(bundle, component or bundle.manifest.main.name, format)
    rng, spec = np.random.default_rng(0), source.spec
    inputs = {t.name: _values(rng, shape_of(t, 1), t.dtype) for t in spec.inputs}
    outputs = {t.name: np.empty(shape_of(t, 1), t.dtype) for t in spec.outputs}
    engines: list[Engine] = []
    for index, engine in enumerate(names):
        try:
            precision = (precisions or {}).get(engine, EXACT)
            engines.append(load_engine(engine, source, threads=threads, precision=precision))
        except AigcEdgeError:  # a network that this engine lacks kernels for
            if not engines and index == len(names) - 1:
                raise
    calls = {loaded.name: loaded.bind(inputs, outputs) for loaded in engines}
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
    return {engine: float(np.median(values)) for engine, values in taken.items()}


def _values(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
    if np.dtype(dtype).kind in "iu":
        return np.zeros(shape, dtype)
    return rng.normal(size=shape).astype(dtype)
