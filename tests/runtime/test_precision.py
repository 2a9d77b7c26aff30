"""Floats in half precision: detected, used where the quality card allows it or on request, and exact otherwise."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import aigc_edge
from aigc_edge import hardware
from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.manifest import Manifest
from aigc_edge.engines import onnxruntime, openvino
from aigc_edge.engines.base import ENGINES
from aigc_edge.errors import AigcEdgeError, DeviationWarning
from aigc_edge.runtime import auto_engine
from aigc_edge.runtime.precision import precision_of, precisions

BUNDLE = Path(__file__).resolve().parents[1] / "data" / "digits-tiny.aigc"
needs_openvino = pytest.mark.skipif(ENGINES["openvino"].unavailable() is not None, reason="openvino is not installed")


def cpu(monkeypatch: pytest.MonkeyPatch, flags: str, machine: str = "x86_64") -> None:
    """Let the CPU have these instructions."""
    monkeypatch.setattr(hardware, "processor_features", lambda: flags)
    monkeypatch.setattr(hardware.platform, "machine", lambda: machine)


def card(engine: str, **entry: Any) -> Manifest:
    return Manifest(quality={"int8": {"precisions": {"bf16": {engine: entry}, "fp16": "not measured with fp16: …"}}})


@pytest.mark.parametrize(
    ("flags", "machine", "of_openvino", "of_onnxruntime"),
    [
        ("avx2 fma", "x86_64", (), ()),
        ("avx2 avx512_bf16", "x86_64", ("bf16",), ()),
        ("amx_bf16 amx_fp16", "x86_64", ("bf16", "fp16"), ()),
        ("avx512_bf16x", "x86_64", (), ()),  # another name
        ("asimd bf16 asimdhp", "aarch64", ("bf16", "fp16"), ("bf16",)),
        ("asimd asimdhp", "aarch64", ("fp16",), ()),
        ("", "arm64", (), ()),
    ],
)
def test_instructions_are_detected(
    monkeypatch: pytest.MonkeyPatch, flags: str, machine: str, of_openvino: tuple[str, ...], of_onnxruntime: tuple[str, ...]
) -> None:
    cpu(monkeypatch, flags, machine)
    assert precisions(ENGINES["openvino"]) == of_openvino
    assert precisions(ENGINES["onnxruntime"]) == of_onnxruntime
    assert precisions(ENGINES["torch"]) == ()


def test_the_default_follows_the_quality_card(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu(monkeypatch, "avx512_bf16")
    passed = card("openvino", passed=True, psnr=40.0)
    assert precision_of(passed, "int8", "openvino", "default") == "bf16"
    assert precision_of(passed, "int8", "openvino", "exact") == "exact"
    assert precision_of(passed, "int8", "onnxruntime", "default") == "exact"  # does not compute in it here
    assert precision_of(passed, "fp32", "openvino", "default") == "exact"  # was not measured
    for other in (card("openvino", passed=False), card("onnxruntime", passed=True), card("openvino", passed="yes"), Manifest()):
        assert precision_of(other, "int8", "openvino", "default") == "exact"
        assert precision_of(other, "int8", "openvino", "bf16") == "bf16"  # on request
    for odd in ({"precisions": 3}, {"precisions": {"bf16": [1]}}, {"precisions": {"bf16": {"openvino": 1}}}):
        assert precision_of(Manifest(quality={"int8": odd}), "int8", "openvino", "default") == "exact"
    cpu(monkeypatch, "avx2")
    assert precision_of(passed, "int8", "openvino", "default") == "exact"
    with pytest.raises(AigcEdgeError, match="openvino does not compute in bf16 on this CPU: it has default, exact"):
        precision_of(passed, "int8", "openvino", "bf16")


def test_what_this_cpu_lacks_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu(monkeypatch, "avx2")
    for engine in ("onnxruntime", "auto"):
        with pytest.raises(AigcEdgeError, match=r"computes? in fp16 on this CPU: "):
            aigc_edge.open(BUNDLE, engine=engine, precision="fp16")
    for wrong in ("fast", "", None, 16, ["exact"]):
        with pytest.raises(AigcEdgeError, match=r"precision is .*: it must be one of default, exact, bf16, fp16"):
            aigc_edge.open(BUNDLE, precision=wrong)  # type: ignore[arg-type]


@needs_openvino
@pytest.mark.parametrize(("precision", "hint"), [("exact", "f32"), ("default", "f32"), ("bf16", "bf16"), ("fp16", "f16")])
def test_openvino_is_given_the_precision(monkeypatch: pytest.MonkeyPatch, precision: Any, hint: str) -> None:
    cpu(monkeypatch, "avx512_bf16 avx512_fp16")
    library, seen = openvino.import_openvino(), []
    compile_model = library.Core.compile_model

    def watched(self: Any, model: Any, device: str, options: dict[str, Any]) -> Any:
        seen.append(options["INFERENCE_PRECISION_HINT"])
        return compile_model(self, model, device, options | {"INFERENCE_PRECISION_HINT": "f32"})

    monkeypatch.setattr(library.Core, "compile_model", watched)
    with aigc_edge.open(BUNDLE, engine="openvino", threads=1, precision=precision) as pipeline:
        assert set(pipeline.precisions.values()) == {"exact" if precision == "default" else precision}
        assert pipeline.sample(1, steps=1, solver="euler").shape == (1, 16, 16, 1)
    assert set(seen) == {hint}


def test_onnxruntime_on_arm_is_given_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime as library

    seen: list[str] = []

    def session(model: Any, options: Any, **_: Any) -> object:
        try:
            seen.append(options.get_session_config_entry("mlas.enable_gemm_fastmath_arm64_bfloat16"))
        except RuntimeError:
            seen.append("")
        return object()

    monkeypatch.setattr(library, "InferenceSession", session)
    for precision in ("exact", "bf16"):
        onnxruntime.open_session(b"", 1, what="a network", precision=precision)
    assert seen == ["", "1"]


def test_prepacked_weights_of_another_precision_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[Any] = []
    monkeypatch.setattr(onnxruntime.prepacked, "cache_entry", lambda source, key: keys.append(key))
    monkeypatch.setattr(onnxruntime, "open_session", lambda *_, **__: None)
    monkeypatch.setattr(onnxruntime, "_signature", lambda *_: ({}, {}))
    component = SimpleNamespace(dims={}, onnx=None)
    source: Any = SimpleNamespace(model_file=lambda: "a.int8w.onnx", component=component, format="int8", bundle="b", spec=None)
    monkeypatch.setattr(onnxruntime, "check_signature", lambda *_: None)
    source.loadable = lambda: nullcontext(("a.int8w.onnx", b""))
    for precision in ("exact", "bf16"):
        onnxruntime.OnnxRuntimeEngine.load(source, threads=1, precision=precision)
    assert keys[0] != keys[1]
    assert keys[0]["int8"] is False  # the network is in int8w, although the bundle is opened in int8


@needs_openvino
def test_auto_measures_in_the_precision_of_each_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cpu(monkeypatch, "avx512_bf16")
    for name in ENGINES:
        monkeypatch.setattr(ENGINES[name], "auto", name in ("onnxruntime", "openvino"))
    seen = []

    def measure(*_: Any, component: str, precisions: dict[str, str]) -> dict[str, float]:
        seen.append((component, dict(precisions)))
        return {"onnxruntime": 1.0, "openvino": 2.0}

    monkeypatch.setattr(auto_engine, "_measure", measure)
    with aigc_edge.open(BUNDLE, engine="auto", threads=1) as pipeline:
        assert pipeline.engines == {"denoiser": "onnxruntime"}
    monkeypatch.setattr(ENGINES["openvino"], "load", lambda *_, **__: pytest.fail("not the fastest"))
    bundle = Bundle.open(BUNDLE)
    quality = {name: {"precisions": {"bf16": {"openvino": {"passed": True}}}} for name in bundle.manifest.main.formats}
    auto_engine.fastest(Bundle(BUNDLE, bundle.manifest._replace(quality=quality)), "fp32", 1)
    assert seen[0] == ("denoiser", {"onnxruntime": "exact", "openvino": "exact"})
    assert seen[1] == ("denoiser", {"onnxruntime": "exact", "openvino": "bf16"})  # another question, measured again


def test_each_network_has_its_own_fastest_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    from tests.text_bundle import TextToImage

    if reason := ENGINES["openvino"].unavailable():
        pytest.skip(reason)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path, measured = TextToImage(np.random.default_rng(7)).write(tmp_path / "toy.aigc"), []
    chosen = {"denoiser": "openvino", "decoder": "onnxruntime", "text_encoder": "openvino"}

    def measure(*_: Any, component: str, precisions: dict[str, str]) -> dict[str, float]:
        measured.append(component)
        return {name: 1.0 if name == chosen[component] else 2.0 for name in precisions}

    monkeypatch.setattr(auto_engine, "_measure", measure)
    for name in ENGINES:
        monkeypatch.setattr(ENGINES[name], "auto", name in ("onnxruntime", "openvino"))
    images = []
    for _ in range(2):
        with aigc_edge.open(path, engine="auto", threads=1) as pipeline:
            assert "text_encoder" not in pipeline.engines  # chosen when it is first needed
            images.append(pipeline.sample(1, seed=3, prompt="a red cat", output="float32"))
            assert pipeline.engines == chosen
            assert pipeline.engine == "openvino"
    assert measured == ["denoiser", "decoder", "text_encoder"]  # remembered
    with aigc_edge.open(path, threads=1) as pipeline:
        assert np.abs(images[0] - pipeline.sample(1, seed=3, prompt="a red cat", output="float32")).max() < 1e-3


def test_integer_kernels_that_saturate_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "sums saturate here"
    monkeypatch.setattr(ENGINES["onnxruntime"], "deviates", lambda format: reason if format == "fp32" else None)
    with pytest.warns(DeviationWarning, match=f"the denoiser in fp32 may return other values .*: {reason}; choose") as caught:
        aigc_edge.open(BUNDLE, format="fp32", threads=1).close()
    assert [warning.filename for warning in caught] == [__file__]
    monkeypatch.setattr(ENGINES["onnxruntime"], "deviates", lambda format: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeviationWarning)
        aigc_edge.open(BUNDLE, format="fp32", threads=1).close()
