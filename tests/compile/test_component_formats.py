"""Text encoders and decoders in int8: calibrated on their own inputs, judged by the image, and weight-only where that fails."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest

import aigc_edge
from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.component import Component
from aigc_edge.bundle.manifest import Manifest
from aigc_edge.bundle.spec import ComponentSpec
from aigc_edge.compile import compressing, sensitivity
from aigc_edge.compile.component_formats import SMOOTH, TEXT_MARGIN, conversions
from aigc_edge.compile.quantise import quantise_bundle
from aigc_edge.compile.request import CompileRequest
from aigc_edge.compile.stage_cache import StageCache
from aigc_edge.compile.state import CompileState
from aigc_edge.compress.format import parse
from aigc_edge.engines.base import made_as
from aigc_edge.errors import BudgetError
from aigc_edge.report.facts import read
from aigc_edge.report.layer_page import build
from aigc_edge.report.summary import render
from tests.compile import text_to_image

QUICK: dict[str, Any] = {"samples": 2, "threads": 1}
PARTS = ("text_encoder", "denoiser", "decoder")
FAST = "int8:rank=false,estimator=minmax"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def integers(file: Path) -> int:
    """The number of Q/DQ pairs of activations in an ONNX file."""
    return sum(node.op_type == "QuantizeLinear" for node in onnx.load(file).graph.node)


@pytest.mark.parametrize("pooled", [False, True])
def test_every_component_is_quantised_and_described(pooled: bool, rng: np.random.Generator, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    path = text_to_image.write(tmp_path / "small.aigc", rng, pooled=pooled)
    manifest = quantise_bundle(path, [f"{FAST},psnr=6,aim=0"], **QUICK)
    for part in PARTS:
        files = manifest.components[part].formats["int8"]
        assert files == {"file": f"{part}.int8.onnx", "openvino": f"{part}.int8.openvino.onnx"}
        assert all(integers(path / file) > 0 for file in files.values())
    parts = manifest.quality["int8"]["components"]
    assert list(parts) == list(manifest.components)
    for entry in parts.values():
        assert entry["format"] == "int8"
        assert entry["seconds"] > 0
        assert entry["psnr"] is None or entry["psnr"] > 0
    assert all(entry["seconds"] > 0 for entry in manifest.quality["fp32"]["components"].values())
    card = json.loads((path / "quality.json").read_text())["int8"]["compression"]
    assert all(card[f"{part}.int8"]["nodes"] for part in PARTS)  # each with its own mixture of layers
    measured = manifest.quality["int8"]["measured"]
    assert measured["engine"].startswith("onnxruntime ")
    for text in (render(manifest), build(read(path))):
        for word in ("Components", "text_encoder", "measured with onnxruntime"):
            assert word in text
    with aigc_edge.open(path, format="int8", threads=1) as small, aigc_edge.open(path, format="fp32", threads=1) as whole:
        images = [pipeline.sample(2, seed=5, prompt="a red cat", output="float32") for pipeline in (small, whole)]
        assert set(small.component_seconds) == set(PARTS)
        small.sample(1, seed=6, prompt="a red cat")
        assert set(small.component_seconds) == {"denoiser", "decoder"}  # the prompt was cached
    assert np.abs(images[0] - images[1]).mean() > 0


def test_calibration_is_on_latents_and_prompts(rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder sees what the sampling program computes, the text encoder the calibration prompts and the empty one."""
    pytest.importorskip("tokenizers")
    seen: dict[str, np.ndarray] = {}
    convert = compressing._convert

    def watched(state: Any, part: str, format: Any, calibration: Any, *rest: Any) -> Any:
        seen.setdefault(f"{part} {format.name}", np.array(calibration.latents))
        return convert(state, part, format, calibration, *rest)

    monkeypatch.setattr(compressing, "_convert", watched)
    path = text_to_image.write(tmp_path / "small.aigc", rng)
    quantise_bundle(path, [f"{FAST},psnr=6,aim=0"], **QUICK)
    expected = sorted({tuple(text_to_image.ids_of(prompt)) for prompt in [*text_to_image.PROMPTS, ""]})
    assert sorted(map(tuple, seen["text_encoder int8"].astype(int))) == expected
    latents: list[np.ndarray] = []
    with aigc_edge.open(path, format="fp32", threads=1) as pipeline:

        def watch(component: str, row: int, inputs: Any, outputs: Any) -> None:
            if component == "decoder":
                latents.append(np.array(inputs["sample"]))

        pipeline.sample(1, seed=1 << 32, prompt=text_to_image.PROMPTS[0], watch=watch)
    assert np.array_equal(seen["decoder int8"][:1], latents[0])
    assert len(seen["decoder int8"]) >= 4


def test_the_worst_component_falls_back_to_weights(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder that costs the image its budget is stored in int8w, and the card says so; the others stay in int8."""
    pytest.importorskip("tokenizers")
    compare = sensitivity.Evaluator.compare
    score = sensitivity.Evaluator.score

    def worse(self: Any, bundle: Path, format: str, *rest: Any, **options: Any) -> dict[str, Any]:
        figures = compare(self, bundle, format, *rest, **options)
        files = Bundle.open(bundle).manifest.components["decoder"].formats[format]
        return figures | ({"psnr": 1.0} if "int8." in files["file"] else {})

    def missed(self: Any, bundle: Path, format: str, progress: Any) -> dict[str, Any]:
        figures = score(self, bundle, format, progress)
        files = Bundle.open(bundle).manifest.components["decoder"].formats[format]
        return figures | ({"psnr": 1.0} if "int8." in files["file"] else {})

    monkeypatch.setattr(sensitivity.Evaluator, "compare", worse)
    monkeypatch.setattr(sensitivity.Evaluator, "score", missed)
    path = text_to_image.write(tmp_path / "small.aigc", rng)
    manifest = quantise_bundle(path, [f"{FAST},psnr=6,aim=0"], **QUICK)
    files = {name: component.formats["int8"]["file"] for name, component in manifest.components.items()}
    assert files["decoder"] == "decoder.int8w.onnx"
    assert "openvino" not in manifest.components["decoder"].formats["int8"]  # its graph of integers is no longer used
    assert files["text_encoder"] == "text_encoder.int8.onnx"
    entry = manifest.quality["int8"]["components"]["decoder"]
    assert (entry["format"], entry["reason"]) == ("int8w", "the images missed the budget")
    assert "the decoder is stored in int8w: the images missed the budget" in " ".join(render(manifest).split())
    assert not [name for name in manifest.files if name.startswith("decoder.int8.")]
    with aigc_edge.open(path, format="int8", threads=1) as pipeline:
        assert np.isfinite(pipeline.sample(1, prompt="a cat", output="float32")).all()


def test_a_component_that_misses_its_own_budget_is_stored_in_weights(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tokenizers")
    convert, tried = compressing._convert, []

    def refused(state: Any, part: str, format: Any, *rest: Any) -> Any:
        if part == "text_encoder" and format.name == "int8":
            tried.append((format.engine, format.smooth))
            raise BudgetError("int8 reaches 3.0 dB")
        return convert(state, part, format, *rest)

    monkeypatch.setattr(compressing, "_convert", refused)
    path = text_to_image.write(tmp_path / "small.aigc", rng)
    manifest = quantise_bundle(path, [f"{FAST},psnr=6,aim=0"], **QUICK)
    assert tried == [(engine, smooth) for engine in ("onnxruntime", "openvino") for smooth in (0.0, SMOOTH)]
    assert manifest.components["text_encoder"].formats["int8"]["file"] == "text_encoder.int8w.onnx"
    assert manifest.quality["int8"]["components"]["text_encoder"]["reason"] == "int8 reaches 3.0 dB"
    assert manifest.components["decoder"].formats["int8"]["file"] == "decoder.int8.onnx"


def test_weights_alone_can_be_asked_for_and_are_all_that_one_prompt_allows(rng: np.random.Generator, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    path = text_to_image.write(tmp_path / "small.aigc", rng)
    manifest = quantise_bundle(path, [f"{FAST},psnr=6,aim=0,others=int8w"], **QUICK)
    files = {name: component.formats["int8"] for name, component in manifest.components.items()}
    assert files["decoder"] == {"file": "decoder.int8w.onnx"}
    assert files["text_encoder"] == {"file": "text_encoder.int8w.onnx"}
    assert "reason" not in manifest.quality["int8"]["components"]["decoder"]


@pytest.mark.parametrize("pooled", [False, True])
def test_w4a8_covers_every_component(
    pooled: bool, rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text encoder and decoder have weights in 4 bits too, and every network computes what its int8 expansion does."""
    pytest.importorskip("tokenizers")
    for size in ("WIDTH", "CHANNELS"):  # layers large enough that 4 bits save something
        monkeypatch.setattr(text_to_image, size, 64)
    path = text_to_image.write(tmp_path / "small.aigc", rng, pooled=pooled)
    manifest = quantise_bundle(path, ["w4a8:estimator=minmax,psnr=6,block=16"], **QUICK)
    for part in PARTS:
        files = manifest.components[part].formats["w4a8"]
        assert files == {"file": f"{part}.w4a8.onnx", "openvino": f"{part}.w4a8.openvino.onnx"}
        for file in files.values():
            kinds = {tensor.data_type for tensor in onnx.load(path / file).graph.initializer}
            assert onnx.TensorProto.INT4 in kinds
            assert integers(path / file) > 0
        entry = manifest.quality["w4a8"]["components"][part]
        assert entry["format"] == "w4a8"
        assert entry["seconds"] > 0
        assert entry["psnr"] is None or entry["psnr"] > 0
    with aigc_edge.open(path, format="w4a8", threads=1) as small, aigc_edge.open(path, format="fp32", threads=1) as whole:
        images = [pipeline.sample(2, seed=5, prompt="a red cat", output="float32") for pipeline in (small, whole)]
    assert 0 < np.abs(images[0] - images[1]).mean() < np.abs(images[1]).mean()


def test_a_text_encoder_without_large_layers_is_not_in_w4a8(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tokenizers")
    monkeypatch.setattr(text_to_image, "CHANNELS", 64)
    path = text_to_image.write(tmp_path / "small.aigc", rng)
    manifest = quantise_bundle(path, ["w4a8:estimator=minmax,psnr=6,block=16"], **QUICK)
    assert manifest.components["text_encoder"].formats["w4a8"] == {
        "file": "text_encoder.int8w.onnx",
        "openvino": "text_encoder.int8w.onnx",
    }
    entry = manifest.quality["w4a8"]["components"]["text_encoder"]
    assert (entry["format"], entry["reason"]) == (
        "int8w",
        "the network has no weight that is smaller in 4 bits than in int8: use int8",
    )
    assert manifest.components["decoder"].formats["w4a8"]["file"] == "decoder.w4a8.onnx"


def test_the_card_says_where_one_engine_alone_falls_back(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tokenizers")
    convert = compressing._convert

    def refused(state: Any, part: str, format: Any, *rest: Any) -> Any:
        if part == "decoder" and format.name == "int8" and format.engine == "openvino":
            raise BudgetError("int8 reaches 3.0 dB")
        return convert(state, part, format, *rest)

    monkeypatch.setattr(compressing, "_convert", refused)
    path = text_to_image.write(tmp_path / "small.aigc", rng)
    manifest = quantise_bundle(path, [f"{FAST},psnr=6,aim=0"], **QUICK)
    files = manifest.components["decoder"].formats["int8"]
    assert files == {"file": "decoder.int8.onnx", "openvino": "decoder.int8w.onnx"}
    entry = manifest.quality["int8"]["components"]["decoder"]
    assert entry["format"] == "int8"
    assert entry["engines"] == {"openvino": {"format": "int8w", "reason": "int8 reaches 3.0 dB"}}
    assert "the decoder for openvino is stored in int8w: int8 reaches 3.0 dB" in " ".join(render(manifest).split())


class Text(NamedTuple):
    """A format that writes its text."""

    name: str
    text: str

    def convert(self, source: Path, out: Path, *_: Any, **__: Any) -> Any:
        out.write_text(self.text)
        return SimpleNamespace(to_json=lambda: {"text": self.text})


def test_a_format_does_not_replace_the_companion_of_another(tmp_path: Path) -> None:
    """Formats hold their companion to different limits: each keeps the network that its quality was measured with."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "decoder.fp32.onnx").write_text("fp32")
    state = CompileState(
        CompileRequest.parse(["int8"], ["x86-cpu"], runnable=False), tmp_path / "work", StageCache(tmp_path / "stages")
    )
    state.components["decoder"] = Component(ComponentSpec("decoder", (), ()), {"fp32": {"file": "decoder.fp32.onnx"}})
    steps = [("int8", "a"), ("w4a8", "a"), ("int4", "b"), ("w4a8", "c"), ("int8", "d")]
    for name, text in steps:
        chosen: Any = Text("int8w", text)
        file, report = compressing._convert_beside(state, "decoder", name, chosen, None, "", lambda *_: None)
        state.set_file("decoder", name, "file", file)
        assert report == {"text": text}
        written = {name: state.file("decoder", name).read_text() for name in state.components["decoder"].formats}
        latest = dict(steps[: steps.index((name, text)) + 1])
        assert written == {"fp32": "fp32", **latest}
        assert made_as(file, name) == "int8w"
        if latest == {"int8": "a", "w4a8": "a"}:
            assert state.file("decoder", "int8") == state.file("decoder", "w4a8"), "equal networks are stored once"


def job(format: str, targets: list[str], **options: Any) -> dict[tuple[str, str], list[Any]]:
    """The candidates by component and engine."""
    request = CompileRequest.parse([format], targets, runnable=False)
    state: Any = SimpleNamespace(request=request, networks=dict.fromkeys(PARTS), main="denoiser")
    (chosen,) = request.formats.values()
    return {(part, engine): list(candidates) for part, engine, candidates in conversions(state, chosen, **options)}


def test_candidates_end_with_the_companion() -> None:
    found = job("int8:psnr=28,qat=50", ["x86-cpu", "rtx-40"])
    assert [f.name for f in found["denoiser", "file"]] == ["int8"]
    assert [f.name for f in found["decoder", "file"]] == ["int8", "int8w"]
    assert [f.name for f in found["decoder", "tensorrt"]] == ["int8w"]  # not measured on GPUs: as it was
    first, smooth, last = found["text_encoder", "openvino"]
    assert (first.psnr, first.engine, first.qat) == (28 + TEXT_MARGIN, "openvino", 0)
    assert smooth.smooth == SMOOTH
    assert (last.name, last.psnr) == ("int8w", 28)
    assert found["denoiser", "file"][0].qat == 50
    assert [f.name for f in job("int8", ["x86-cpu"], weight_only={"decoder"})["decoder", "file"]] == ["int8w"]
    for format in ("int8:others=int8w", "int8:floats=fp16"):
        assert [f.name for f in job(format, ["x86-cpu"])["decoder", "file"]] == ["int8w"]
    assert [f.name for f in job("int4", ["x86-cpu"])["text_encoder", "file"]] == ["int8w"]


@pytest.mark.parametrize(
    ("errors", "steps"),
    [
        ({"denoiser": 30.0, "decoder": 20.0, "text_encoder": 25.0}, ["decoder", "text_encoder", "", "", ""]),
        ({"denoiser": 10.0, "decoder": 20.0, "text_encoder": None}, ["", "", "", "decoder", "text_encoder"]),
    ],
)
def test_what_is_given_up_first_has_the_largest_error(errors: dict[str, float | None], steps: list[str]) -> None:
    """Components fall back in the order of their errors; the main one is refined at most three times ("")."""
    format = parse("int8")
    work: Any = SimpleNamespace(main="denoiser", reports={"int8": {"denoiser.int8": {"psnr": 30.0, "nodes": {"a": {}}}}})
    work.stored = {"int8": {part: {"format": "int8", "psnr": psnr} for part, psnr in errors.items()}}
    search = sensitivity.candidates(work, format)
    last, done = next(search), []
    while True:
        for part in last.weight_only:
            work.stored["int8"][part] = {"format": "int8w"}
        try:
            candidate = search.send(False)
        except StopIteration:
            break
        done.append("".join(candidate.weight_only - last.weight_only))
        last = candidate
    assert done == steps
    assert last.format.psnr > format.psnr


def test_bundles_without_the_new_members_are_shown() -> None:
    assert "Components" not in render(
        Manifest(quality={"int8": {"psnr": 30.0, "n": 4}}, sample_shape=(1, 2, 2), output_shape=(1, 2, 2))
    )
