"""From prompt to pixels with real engines: encoder, denoiser and decoder against the same networks in NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aigc_edge
from aigc_edge.bench import runner, suite
from aigc_edge.bundle.bundle import Bundle
from aigc_edge.diffusion import build
from aigc_edge.engines.base import ENGINES, Engine, arrange
from aigc_edge.errors import AigcEdgeError
from aigc_edge.report.summary import render
from aigc_edge.runtime import auto_engine, pipeline
from aigc_edge.runtime import device as devices
from aigc_edge.tuning.tune import tune_bundle
from aigc_edge.verify.run import verify

PROMPTS, AWAY = ["A red cat on the moon", "the moon"], ["a cat", "red"]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("guidance", [False, True])
def test_images_are_those_of_the_networks_in_numpy(
    text_to_image: Any, tmp_path: Path, rng: np.random.Generator, engine: str, guidance: bool
) -> None:
    if reason := ENGINES[engine].unavailable():
        pytest.skip(reason)
    toy = text_to_image(guidance=guidance)
    latents = rng.normal(size=(2, 3, 8, 8)).astype(np.float32)
    with aigc_edge.open(toy.write(tmp_path / "toy.aigc"), engine=engine, threads=1) as opened:
        for scale in (None, 1.0, 3.5):
            away = {} if guidance else {"negative_prompt": AWAY}
            found = opened.sample(2, prompt=PROMPTS, latents=latents, guidance_scale=scale, output="float32", **away)
            program = build({"prediction": "flow"}, "euler", 4, guidance_scale=2.0 if scale is None else scale)
            np.testing.assert_allclose(found, toy.image(PROMPTS, AWAY, latents, program), atol=2e-5)
        found = opened.sample(2, prompt=PROMPTS, latents=latents, output="float32", solver="heun", steps=3)
        program = build({"prediction": "flow"}, "heun", 3, guidance_scale=2.0)
        np.testing.assert_allclose(found, toy.image(PROMPTS, ["", ""], latents, program), atol=2e-5)


class TorchTensors(Engine):
    """The networks of a toy as functions of torch tensors; in host memory they are onnxruntime's."""

    name, devices = "torch-toy", ("cpu", "cuda")
    toy: Any = None

    def __init__(self, inner: Engine) -> None:
        self.spec, self._inner = inner.spec, inner

    @classmethod
    def unavailable(cls) -> str | None:
        return None

    @classmethod
    def load(cls, source: Any, *, threads: int) -> Engine:
        return cls(ENGINES["onnxruntime"].load(source, threads=threads))

    def bind(self, inputs: Any, outputs: Any) -> Any:
        return self._inner.bind(inputs, outputs)

    def on_device(self, device: str) -> Any:
        import torch

        weights = {name: torch.from_numpy(value) for name, value in self.toy.weights.items()}

        def network(sample: Any, timestep: Any, **conditions: Any) -> Any:
            given = arrange(self.spec, sample, timestep, conditions)
            if self.spec.name == "decoder":
                return torch.tanh(sample.repeat_interleave(2, 2).repeat_interleave(2, 3))
            shift = given["text"].flatten(1) @ weights["text_w"] + given["pooled"] @ weights["pooled_w"] + timestep[:, None]
            shift = shift + 0.1 * given["scale"][:, None] if self.toy.guidance else shift
            return torch.tanh(sample + shift[:, :, None, None])

        network.dtype = "float32"  # type: ignore[attr-defined]
        return network


@pytest.fixture
def on_torch() -> type[TorchTensors]:
    pytest.importorskip("torch")
    if "torch-toy" not in ENGINES:
        ENGINES.register("torch-toy")(TorchTensors)
    return TorchTensors


@pytest.mark.parametrize("guidance", [False, True])
def test_the_loop_on_a_device_takes_conditions(
    text_to_image: Any,
    tmp_path: Path,
    on_torch: type[TorchTensors],
    emulated_gpu: Any,
    monkeypatch: pytest.MonkeyPatch,
    guidance: bool,
) -> None:
    monkeypatch.setattr(devices, "MAX_BATCH", 2)
    on_torch.toy = text_to_image(guidance=guidance)
    bundle = on_torch.toy.write(tmp_path / "toy.aigc")
    options = {"engine": "torch-toy", "format": None, "threads": 1, "verify": "none"}
    with pipeline.Pipeline(bundle, **options) as native, pipeline.Pipeline(bundle, **options, torch_device="cpu") as ours:  # type: ignore[arg-type]
        assert (native.device, ours.device) == ("cpu", "cuda")
        away: dict[str, Any] = {} if guidance else {"negative_prompt": "red"}
        for given in ({"prompt": "a cat"} | away, {"prompt": [*PROMPTS, "cat"]}, {"prompt": "a cat", "guidance_scale": 1.0}):
            found = ours.sample(3, seed=7, output="float32", **given)
            np.testing.assert_allclose(found, native.sample(3, seed=7, output="float32", **given), atol=2e-5)
        with pytest.raises(AigcEdgeError, match="generates by conditions: give a prompt, or give"):
            ours.sample(1)


@pytest.mark.parametrize("guidance", [False, True])
def test_one_graph_serves_every_prompt(
    text_to_image: Any,
    tmp_path: Path,
    on_torch: type[TorchTensors],
    emulated_gpu: Any,
    monkeypatch: pytest.MonkeyPatch,
    guidance: bool,
) -> None:
    from tests.recorded_graphs import RecordedGraphs

    recorded = RecordedGraphs(monkeypatch, emulated_gpu)
    on_torch.toy = text_to_image(guidance=guidance)
    bundle = on_torch.toy.write(tmp_path / "toy.aigc")
    options = {"engine": "torch-toy", "format": None, "threads": 1, "verify": "none"}
    with pipeline.Pipeline(bundle, **options) as native, pipeline.Pipeline(bundle, **options, torch_device="cpu") as ours:  # type: ignore[arg-type]
        seen = []
        ours.sample(2, prompt="red")  # the first loop runs row by row
        for given in ({"prompt": "a cat"}, {"prompt": PROMPTS}, {"prompt": ["on", "red"]}):
            recorded.events.clear()
            seen.append(ours.sample(2, seed=7, output="float32", **given))
            np.testing.assert_allclose(seen[-1], native.sample(2, seed=7, output="float32", **given), atol=2e-5)
            assert ours.reason is None
            assert recorded.events[-1] == "replay"
        assert len(recorded.records) == 1
        assert np.abs(seen[0] - seen[1]).max() > 1e-3


def test_the_fastest_engine_is_measured_on_a_network_with_conditions(text_to_image: Any, tmp_path: Path) -> None:
    bundle = text_to_image(guidance=True).write(tmp_path / "toy.aigc")
    with aigc_edge.open(bundle, threads=1) as opened:
        assert auto_engine._measure(Bundle(bundle, opened.manifest), "fp32", 1, ["onnxruntime"])["onnxruntime"] > 0


def test_inspect_says_how_text_becomes_conditions(text_to_image: Any, tmp_path: Path) -> None:
    shown = render(Bundle.open(text_to_image().write(tmp_path / "toy.aigc"), verify=True).manifest)
    assert "from prompts, images 3×16×16 from latents 3×8×8" in shown
    assert 'Text (no negative prompt: conditions of "")' in shown
    row = next(line for line in shown.splitlines() if "tokenizer/text_encoder.json" in line)
    assert row.split()[0] == "text_encoder"
    assert row.split()[-2:] == ["6", "1"]
    without = render(Bundle.open(text_to_image(encoders=False).write(tmp_path / "bare.aigc"), verify=True).manifest)
    assert "conditions text, pooled" in without
    assert "Text (" not in without


@pytest.mark.parametrize(("guidance", "encoders"), [(False, True), (True, True), (False, False)])
def test_bench_measures_a_bundle_with_conditions(text_to_image: Any, tmp_path: Path, guidance: bool, encoders: bool) -> None:
    bundle = text_to_image(guidance=guidance, encoders=encoders).write(tmp_path / "toy.aigc")
    workload = runner.open_workload(str(bundle), None, None, None, 1)
    assert workload.guided is not guidance
    assert set(workload.conditions) == (set() if encoders else {"text", "pooled"})
    chosen, left_out = suite.choose(workload, [])
    assert [each.name for each, _ in chosen] == ["native", "network"]
    assert "not conditions" in left_out["numpy"]
    settings = suite.Settings(runs=2, batch=2, warmup=1, cold_starts=1, quality_images=2)
    figures = suite.bench(workload, settings)
    rows = {row["key"]: row for row in figures["configurations"]}
    assert rows["native-fp32"]["latency"]["2"]["median"] > 0
    assert rows["native-fp32"]["cold_start"]["total"]["median"] > 0


def test_what_cannot_take_conditions_yet_says_so(text_to_image: Any, tmp_path: Path) -> None:
    bundle = text_to_image().write(tmp_path / "toy.aigc")
    with pytest.raises(AigcEdgeError, match="has conditions or takes the guidance scale as an input: verify does not compare"):
        verify(str(bundle), against="reference")
    with pytest.raises(AigcEdgeError, match="no denoiser that takes sample, timestep, class alone"):
        tune_bundle(bundle, [4])
