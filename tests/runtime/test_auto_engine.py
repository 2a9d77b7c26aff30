"""`engine="auto"`: the fastest engine is measured, taken and remembered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import aigc_edge
from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.component import Component
from aigc_edge.bundle.spec import ComponentSpec
from aigc_edge.engines import openvino
from aigc_edge.engines.base import ENGINES
from aigc_edge.errors import AigcEdgeError
from aigc_edge.runtime import auto_engine

BUNDLE = Path(__file__).resolve().parents[1] / "data" / "digits-tiny.aigc"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "aigc-edge" / "engines.json"


def consider(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let these engines alone be candidates of "auto"."""
    for name in ENGINES:
        monkeypatch.setattr(ENGINES[name], "auto", name in names)


def test_the_fastest_is_taken_and_remembered(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def measure(bundle: Bundle, format: str, threads: int, names: list[str], **_: object) -> dict[str, float]:
        measured.append(names)
        return {"onnxruntime": 2.0, "torch": 1.0}

    consider(monkeypatch, "onnxruntime", "torch")
    monkeypatch.setattr(auto_engine, "_measure", measure)
    for _ in range(2):
        with aigc_edge.open(BUNDLE, engine="auto", threads=1) as opened:
            assert opened.engine == "torch"
            assert opened.sample(1, seed=1, steps=2, solver="euler").shape == (1, 16, 16, 1)
    assert measured == [["onnxruntime", "torch"]]
    with aigc_edge.open(BUNDLE, engine="auto", threads=2):
        assert len(measured) == 2  # another number of threads is another question
    cache.write_text("damaged")
    with aigc_edge.open(BUNDLE, engine="auto", threads=1):
        assert len(measured) == 3
    (entry,) = json.loads(cache.read_text()).values()
    assert entry.startswith("torch ")
    for wrong in (entry.replace("torch", "onnxruntime"), entry[:-1], "torch", ["torch"], None):  # damaged, or of an older version
        cache.write_text(json.dumps(dict.fromkeys(json.loads(cache.read_text()), wrong)))
        before = len(measured)
        with aigc_edge.open(BUNDLE, engine="auto", threads=1):
            assert len(measured) == before + 1


def test_every_candidate_is_measured_on_the_network_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    consider(monkeypatch, "onnxruntime", "torch")
    names = ["onnxruntime", "torch"]
    for name in names:
        if reason := ENGINES[name].unavailable():
            pytest.skip(reason)
    with aigc_edge.open(BUNDLE, threads=1) as opened:
        seconds = auto_engine._measure(Bundle(BUNDLE, opened.manifest), "fp32", 1, names)
    assert set(seconds) == set(names)
    assert all(value > 0 for value in seconds.values())


def test_one_engine_alone_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    consider(monkeypatch, "onnxruntime")
    monkeypatch.setattr(auto_engine, "_measure", lambda *_, **__: pytest.fail("nothing is to be chosen"))
    with aigc_edge.open(BUNDLE, engine="auto") as opened:
        assert opened.engine == "onnxruntime"


def test_an_engine_that_cannot_load_the_network_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    consider(monkeypatch, "onnxruntime", "torch")
    monkeypatch.setattr(ENGINES["torch"], "unavailable", lambda: None)

    def refuse(*_: object, **__: object) -> None:
        raise AigcEdgeError("no kernels")

    monkeypatch.setattr(ENGINES["torch"], "load", refuse)
    with aigc_edge.open(BUNDLE, engine="auto", threads=1) as opened:
        assert opened.engine == "onnxruntime"
    monkeypatch.setattr(ENGINES["onnxruntime"], "load", refuse)
    with pytest.raises(AigcEdgeError, match="no kernels"):
        auto_engine._measure(Bundle(BUNDLE, opened.manifest), "fp32", 1, ["onnxruntime", "torch"])


def test_no_engine_at_all_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    consider(monkeypatch)
    with pytest.raises(AigcEdgeError, match="no engine that 'auto' chooses from"):
        aigc_edge.open(BUNDLE, engine="auto")


def network(format: str, file: str = "") -> Component:
    """A network that a bundle has in this format, stored in `file`."""
    return Component(ComponentSpec("decoder", (), ()), {format: {"file": file or f"decoder.{format}.onnx"}})


def test_int8_without_vnni_is_not_for_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino.OpenVinoEngine, "unavailable", lambda: None)
    monkeypatch.setattr(openvino.platform, "machine", lambda: "x86_64")
    for vnni in (True, False):
        monkeypatch.setattr(openvino, "has_vnni", lambda vnni=vnni: vnni)
        assert ("openvino" in auto_engine.candidates(network("int8"), "int8")) == vnni
        assert ("openvino" in auto_engine.candidates(network("w4a8"), "w4a8")) == vnni
        assert "openvino" in auto_engine.candidates(network("fp32"), "fp32")
        assert "openvino" in auto_engine.candidates(network("int8", "decoder.int8w.onnx"), "int8"), "its activations are floats"
    monkeypatch.setattr(openvino.platform, "machine", lambda: "aarch64")
    assert "openvino" in auto_engine.candidates(network("int8"), "int8")


def test_gpus_are_asked_for_by_name() -> None:
    assert "tensorrt" not in auto_engine.candidates(network("fp32"), "fp32")
    assert "torch" not in auto_engine.candidates(network("fp32"), "fp32")
