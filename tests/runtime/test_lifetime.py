"""How long pipelines live: until their last reference goes, also after failures; and calls from within their own callbacks."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aigc_edge
from aigc_edge.errors import AigcEdgeError
from aigc_edge.runtime import pipeline


@pytest.fixture
def without_gc() -> Iterator[None]:
    """Only reference counts free anything: a cycle stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def opened(bundle: Path, **options: Any) -> pipeline.Pipeline:
    return aigc_edge.open(bundle, engine="onnxruntime", threads=1, verify="none", **options)


def fails(*_: Any) -> None:
    raise ZeroDivisionError


def sampled(p: pipeline.Pipeline) -> None:
    p.sample(1, steps=1)


def watched(p: pipeline.Pipeline) -> None:
    seen: list[Any] = []
    p.sample(1, steps=2, watch=lambda *buffers: seen.append(buffers), progress=lambda *_: seen.append(p))


def failed(p: pipeline.Pipeline) -> None:
    for callback in ("watch", "progress"):
        with pytest.raises(ZeroDivisionError):
            p.sample(1, steps=2, **{callback: fails})  # type: ignore[arg-type]


def refused(p: pipeline.Pipeline) -> None:
    with pytest.raises(AigcEdgeError):
        p.sample(1, classes=[99])


def closed(p: pipeline.Pipeline) -> None:
    with p:
        p.sample(1, steps=1)
    with pytest.raises(AigcEdgeError, match="closed"):
        p.sample(1)


def extended(p: pipeline.Pipeline) -> None:
    p.program(solver="heun", steps=2)
    p.network(np.zeros((1, 1, 16, 16), np.float32), 0.1, class_labels=np.zeros(1, np.int64))


@pytest.mark.parametrize("use", [sampled, watched, failed, refused, closed, extended])
def test_a_pipeline_goes_with_its_last_reference(
    tiny_bundle: Path, without_gc: None, use: Callable[[pipeline.Pipeline], None]
) -> None:
    p = opened(tiny_bundle)
    use(p)
    gone = [weakref.ref(p), weakref.ref(p._networks), weakref.ref(p._encoders)]
    gone += [weakref.ref(engine) for engine in p._networks.engines.values()]
    del p
    assert [reference() for reference in gone] == [None] * len(gone)


@pytest.mark.parametrize("captured", [False, True])
def test_a_pipeline_on_a_gpu_goes_too(
    tiny_bundle: Path, emulated_gpu: Any, monkeypatch: pytest.MonkeyPatch, captured: bool, without_gc: None
) -> None:
    pytest.importorskip("torch")  # its first import leaves frames in cycles
    gc.collect()
    if captured:
        from tests.recorded_graphs import RecordedGraphs

        RecordedGraphs(monkeypatch, emulated_gpu)
    p = pipeline.Pipeline(tiny_bundle, engine="torch", format="fp32", threads=1, verify="none", torch_device="cpu")
    for seed in range(3):
        p.sample(1, seed=seed, steps=2)
    reason = p.reason
    assert (reason is None) == captured
    gone = [weakref.ref(p), weakref.ref(p._networks)]
    del p
    if captured:  # the stand-in for a capture keeps frames
        gc.collect()
    assert [reference() for reference in gone] == [None, None]


def test_a_hundred_pipelines_take_the_memory_of_one(tiny_bundle: Path) -> None:
    def resident() -> int:
        fields = Path("/proc/self/statm").read_text().split()
        return int(fields[1]) * 4096

    def generate(count: int) -> None:
        for _ in range(count):
            opened(tiny_bundle).sample(1, steps=1)

    generate(10)  # what is loaded and allocated once
    before = resident()
    generate(100)
    assert resident() - before < 60 << 20  # they took 235 MB when none was freed


def test_calls_from_within_a_callback(tiny_bundle: Path) -> None:
    said: list[str] = []

    def tries(p: pipeline.Pipeline, *_: Any) -> None:
        program = replace(p.program(), name="another")
        for call in (lambda: p.sample(1), lambda: p.add_program(program), lambda: p.encode("x"), p.close_encoders):
            with pytest.raises(AigcEdgeError) as error:
                call()
            said.append(str(error.value))

    with opened(tiny_bundle) as p:
        wanted = p.sample(1, seed=5, steps=2)
        for callback in ("progress", "watch"):
            samples: list[Any] = []
            options: dict[str, Any] = {callback: lambda *row: tries(p, *row)}
            arguments = (samples, options)
            thread = threading.Thread(target=lambda into, how: into.append(p.sample(1, seed=5, steps=2, **how)), args=arguments)
            thread.daemon = True  # a deadlock fails the test, and does not hang the run
            thread.start()
            thread.join(60)
            assert not thread.is_alive()
            np.testing.assert_array_equal(samples[0], wanted)
    refusal = "was called by progress or watch of a sample that still runs: call it afterwards"
    assert said[:4] == [
        f"sample {refusal}",
        f"add_program {refusal}",
        f"{tiny_bundle} has no text encoder: it cannot encode a prompt",
        f"close_encoders {refusal}",
    ]
    assert len(said) == 16


@pytest.mark.parametrize("then_fails", [False, True])
def test_close_within_a_callback_takes_effect_afterwards(tiny_bundle: Path, then_fails: bool) -> None:
    p = opened(tiny_bundle)
    wanted = p.sample(1, seed=5, steps=2)

    def close(*_: Any) -> None:
        p.close()
        if then_fails:
            raise ZeroDivisionError

    if then_fails:
        with pytest.raises(ZeroDivisionError):
            p.sample(1, steps=2, progress=close)
    else:
        np.testing.assert_array_equal(p.sample(1, seed=5, steps=2, progress=close), wanted)
    with pytest.raises(AigcEdgeError, match="closed"):
        p.sample(1)


def test_another_thread_waits_instead_of_being_refused(tiny_bundle: Path) -> None:
    results: list[Any] = []
    with opened(tiny_bundle) as p:
        wanted = p.sample(1, seed=6, steps=2)
        other = threading.Thread(target=lambda: results.append(p.sample(1, seed=6, steps=2)))

        def start(row: int, rows: int) -> None:
            if row == 0:
                other.start()

        p.sample(1, steps=2, progress=start)
        other.join(60)
    np.testing.assert_array_equal(results[0], wanted)
