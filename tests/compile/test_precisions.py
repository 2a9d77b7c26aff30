"""Half precision is measured where the compiling CPU has it, judged by the format's budget, and said where it was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import aigc_edge
from aigc_edge import hardware
from aigc_edge.compile import compile_source, evaluator
from aigc_edge.engines.base import ENGINES
from aigc_edge.engines.openvino import OpenVinoEngine
from aigc_edge.report.summary import render
from aigc_edge.sources.generator import Generator

QUICK: dict[str, Any] = {"samples": 2, "threads": 1, "steps": 2}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The precisions that OpenVINO was loaded with, on a CPU with bf16; what it computes is float32."""
    if reason := ENGINES["openvino"].unavailable():
        pytest.skip(reason)
    monkeypatch.setattr(hardware, "processor_features", lambda: "avx512_bf16 avx512_vnni")
    load, seen = OpenVinoEngine.load, []

    def watched(source: Any, *, threads: int, precision: str = "exact") -> Any:
        seen.append(precision)
        return load(source, threads=threads)

    monkeypatch.setattr(OpenVinoEngine, "load", watched)
    return seen


@pytest.mark.parametrize("holds", [True, False])
def test_half_precision_is_judged(
    holds: bool, loaded: list[str], generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not holds:
        compare = evaluator.Evaluator.compare
        monkeypatch.setattr(evaluator.Evaluator, "compare", lambda *a, **k: compare(*a, **k) | {"psnr": 3.0})
    path = tmp_path / "small.aigc"
    manifest = compile_source(generator, path, formats=["fp32", "int8w"], **QUICK)
    assert "bf16" in loaded
    for format in ("fp32", "int8w"):
        cards = manifest.quality[format]["precisions"]
        assert list(cards["bf16"]) == ["openvino"]
        assert cards["bf16"]["openvino"]["passed"] is holds
        assert cards["fp16"].startswith("not measured with fp16: the CPU lacks avx512_fp16")
        assert manifest.quality[format]["measured"]["instructions"] == ["avx512_vnni", "avx512_bf16"]
    said = "holds the budget: the default" if holds else "misses the budget: on request only"
    assert "int8w with floats in bf16 (openvino): PSNR" in render(manifest)
    assert said in " ".join(render(manifest).split())
    for asked, used in (("default", "bf16" if holds else "exact"), ("exact", "exact"), ("bf16", "bf16")):
        loaded.clear()
        with aigc_edge.open(path, engine="openvino", format="int8w", threads=1, precision=asked) as pipeline:  # type: ignore[arg-type]
            assert pipeline.precisions == {"denoiser": used}
        assert loaded[0] == used


def test_a_cpu_without_it_says_so_and_samples_stay_exact(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "processor_features", lambda: "avx2 fma")
    manifest = compile_source(generator, tmp_path / "small.aigc", formats=["fp32"], **QUICK)
    expected = "not measured with bf16: the CPU lacks avx512_bf16, amx_bf16 and Arm's bf16"
    assert manifest.quality["fp32"]["precisions"]["bf16"] == expected
    assert expected in " ".join(render(manifest).split())
    monkeypatch.setattr(hardware, "processor_features", lambda: "avx512_bf16")
    with aigc_edge.open(
        tmp_path / "small.aigc", engine="openvino" if not ENGINES["openvino"].unavailable() else "onnxruntime"
    ) as p:
        assert p.precisions["denoiser"] == "exact"


def test_a_format_without_limits_is_judged_too(
    loaded: list[str], generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = evaluator.Evaluator.compare
    monkeypatch.setattr(evaluator.Evaluator, "compare", lambda *a, **k: compare(*a, **k) | {"psnr": 3.0})
    manifest = compile_source(generator, tmp_path / "small.aigc", formats=["fp32", "int8w:psnr=0"], **QUICK)
    assert manifest.quality["int8w"]["precisions"]["bf16"]["openvino"]["passed"] is False
    assert "bf16" in loaded
