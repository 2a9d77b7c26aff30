"""The loop on a torch device against the runtime's own: the same bundle, seeds and classes; torch's CPU stands in for a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_edge import _core
from aigc_edge.engines.base import ENGINES
from aigc_edge.errors import AigcEdgeError, EngineUnavailable
from aigc_edge.runtime import device_loop, pipeline
from aigc_edge.runtime.initial_state import classes_of_seeds

torch = pytest.importorskip("torch")
GPU = not _core.cuda_unavailable() and torch.cuda.is_available()
ON_GPU = pytest.param("cuda:0", marks=pytest.mark.skipif(not GPU, reason="needs a GPU, torch with CUDA and CUDA kernels"))


@pytest.fixture(params=["cpu", ON_GPU])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "cpu":  # TF32 would be rounding of another kind
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return str(request.param)


def recorded_graphs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Capture and replay on CPU tensors."""
    from tests.recorded_graphs import RecordedGraphs

    return RecordedGraphs(monkeypatch)


def opened(bundle: Path, device: str | None = None) -> pipeline.Pipeline:
    """The torch engine in the runtime's own loop, or in that of a device."""
    return pipeline.Pipeline(bundle, engine="torch", format="fp32", threads=1, verify="none", torch_device=device)


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    if found.dtype == np.uint8:
        assert np.abs(found.astype(int) - wanted).max() <= 1
    else:
        assert np.linalg.norm(found - wanted) <= 2e-4 * np.linalg.norm(wanted)


@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun", "euler_ancestral", "unipc"])
def test_images_are_those_of_the_native_loop(tiny_bundle: Path, device: str, solver: str, rng: np.random.Generator) -> None:
    with opened(tiny_bundle) as native, opened(tiny_bundle, device) as ours:
        assert (native.device, ours.device) == ("cpu", "cuda")
        for n, guidance, rescale, output in ((1, None, None, "uint8"), (3, 1.0, None, "float32"), (2, 3.0, 0.5, "float32")):
            options: dict[str, Any] = {"solver": solver, "steps": 5, "guidance_scale": guidance, "guidance_rescale": rescale}
            options |= {"seeds": rng.integers(0, 2**64, n, dtype=np.uint64), "output": output}
            close(ours.sample(n, **options), native.sample(n, **options))  # classes drawn from the seeds
            options |= {"classes": rng.integers(-1, 10, n), "negative_classes": rng.integers(-1, 10, n)}
            close(ours.sample(n, **options), native.sample(n, **options))
        assert ours.stats["evaluations"] == native.stats["evaluations"]
        assert ours.stats["total_seconds"] > 0


def test_given_noise_latents_images_and_masks(tiny_bundle: Path, device: str, rng: np.random.Generator) -> None:
    latents = rng.normal(size=(2, 1, 16, 16)).astype(np.float32)
    image = rng.integers(0, 256, (2, 16, 16, 1), dtype=np.uint8)
    mask = (rng.uniform(size=(16, 16)) > 0.5).astype(np.float32)
    cases: list[dict[str, Any]] = [
        {"latents": latents, "steps": 4},
        {"noise": "numpy", "solver": "euler_ancestral", "steps": 3, "seed": 2**64 - 1},
        {"image": image, "strength": 0.5, "steps": 6},
        {"image": image, "mask": mask, "steps": 4},
    ]
    with opened(tiny_bundle) as native, opened(tiny_bundle, device) as ours:
        for case in cases:
            close(ours.sample(2, output="float32", **case), native.sample(2, output="float32", **case))
        told: list[tuple[int, int]] = []
        ours.sample(1, steps=3, progress=lambda *row: told.append(row))
        assert told == [(0, 3), (1, 3), (2, 3)]
        assert "progress" in str(ours.reason) or device == "cpu"


def test_counts_above_one_batch_and_few_kept_loops(tiny_bundle: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_loop, "MAX_BATCH", 3)
    monkeypatch.setattr(device_loop, "CACHED_LOOPS", 2)
    with opened(tiny_bundle) as native, opened(tiny_bundle, device) as ours:
        close(ours.sample(7, seed=5, steps=3), native.sample(7, seed=5, steps=3))
        kept = ours._on_device._loops  # type: ignore[union-attr]
        assert [key[1] for key in kept] == [3, 1]  # two of three share one
        before = dict(kept)
        ours.sample(3, seed=50, steps=3, guidance_scale=None)
        assert {key: id(loop) for key, loop in kept.items()} == {key: id(loop) for key, loop in before.items()}
        ours.sample(3, steps=3, guidance_scale=4.0)  # guidance stands in the kernels: another loop, the oldest goes
        assert [key[0].guidance_scale for key in kept] == [2.0, 4.0]


def test_a_whole_bundle_in_recorded_graphs(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = recorded_graphs(monkeypatch)
    with opened(tiny_bundle) as native, opened(tiny_bundle, "cpu") as ours:
        for seed, classes, solver in ((3, [1, 2], None), (2**40, [-1, 9], None), (0, None, "euler_ancestral")):
            options: dict[str, Any] = {"seed": seed, "classes": classes, "solver": solver, "output": "float32"}
            recorded.events.clear()
            close(ours.sample(2, **options), native.sample(2, **options))
            assert ours.reason is None
            assert recorded.events[-1] == "replay"
        assert len(recorded.records) == 2  # one of each program


def test_a_generator_of_one_evaluation(open_gan: Any) -> None:
    with open_gan() as native, open_gan("cpu") as ours:
        for classes in (None, [0, 3, 1]):
            for output in ("uint8", "float32"):
                options: dict[str, Any] = {"seed": 9, "classes": classes, "output": output}
                close(ours.sample(3, **options), native.sample(3, **options))
        assert ours.reason == "one evaluation is not a loop"
        with pytest.raises(AigcEdgeError, match="class -1 is out of range"):
            ours.sample(1, classes=-1)


@pytest.fixture
def open_gan(tmp_path: Path) -> Any:
    """open_gan(torch_device) opens an untrained GAN's bundle with the torch engine."""
    safetensors = pytest.importorskip("safetensors.torch")
    from aigc_edge.bundle.write import write_members
    from aigc_edge.models.base import FAMILIES

    settings = {"size": 16, "channels": 1, "num_classes": 4, "latent": 8, "width": 16}
    model = {name: value for name, value in settings.items() if name in FAMILIES["gan"].Model.__dataclass_fields__}
    torch.manual_seed(int(np.random.default_rng().integers(2**31)))
    family = FAMILIES["gan"].from_config(model).eval()
    (component,) = family.components()
    weights = safetensors.save(component.module.state_dict())
    program = {"version": 1, "name": "one-shot", "slots": 1, "init_scale": 0.7, "guidance_scale": 1.0, "rows": []}
    manifest = {
        "name": "toy", "family": "gan", "sample_shape": list(family.sample_shape), "output_shape": [1, 16, 16],
        "output_range": [-1, 1], "classes": {"count": 4, "names": list("abcd")}, "schedule": None, "default_format": "fp32",
        "default_program": "one-shot", "programs": {"one-shot": program},
        "components": {"decoder": component.spec.to_json() | {
            "formats": {"fp32": {"file": "net.onnx"}}, "weights": {"file": "net.safetensors", "model": family.model_config()}}},
    }  # fmt: skip
    write_members(tmp_path / "gan.aigc", manifest, {"net.onnx": b"not read", "net.safetensors": weights})
    return lambda device=None: opened(tmp_path / "gan.aigc", device)


def test_drawn_classes_are_the_runtimes(tiny_bundle: Path, rng: np.random.Generator) -> None:
    seeds = np.concatenate([rng.integers(0, 2**64, 61, dtype=np.uint64), np.array([0, 1, 2**64 - 1], np.uint64)])
    seen: list[np.ndarray] = []
    with opened(tiny_bundle) as native:
        engine = native._networks.engines["denoiser"]
        bind = engine.bind

        def watched(given: Any, outputs: Any) -> Any:
            call = bind(given, outputs)

            def run() -> None:
                seen.append(given["class_labels"][: len(given["class_labels"]) // 2].copy())
                call()

            return run

        engine.bind = watched  # type: ignore[method-assign]
        native.sample(64, seeds=seeds, steps=1, solver="euler", guidance_scale=2.0)
    found = np.concatenate(seen)
    np.testing.assert_array_equal(classes_of_seeds(seeds, 10), found)
    assert len(set(found.tolist())) > 5


def test_where_it_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_engine, onnx, tensorrt = (ENGINES[name] for name in ("torch", "onnxruntime", "tensorrt"))
    monkeypatch.setattr(device_loop, "without_gpu", lambda: None)
    assert device_loop.choose(torch_engine, "cuda") == ("cuda:0", None)
    assert device_loop.choose(tensorrt, "auto") == ("cuda:0", None)
    for engine, device in ((torch_engine, "auto"), (torch_engine, "cpu"), (onnx, "auto")):
        assert device_loop.choose(engine, device) == (None, "the device is the CPU")
    with pytest.raises(AigcEdgeError, match="'tensorrt' computes on a GPU only"):
        device_loop.choose(tensorrt, "cpu")
    with pytest.raises(EngineUnavailable, match="'onnxruntime' computes on the CPU only: for a GPU choose the engine torch"):
        device_loop.choose(onnx, "cuda")
    with pytest.raises(AigcEdgeError, match="device is 'tpu': it must be one of auto, cpu, cuda"):
        device_loop.choose(onnx, "tpu")
    monkeypatch.setattr(device_loop, "without_gpu", lambda: "torch is not installed: do")
    place, reason = device_loop.choose(tensorrt, "auto")
    assert place is None
    assert reason == "the loop runs on the CPU around a network on the GPU: torch is not installed: do"


@pytest.mark.skipif(GPU, reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_a_sentence(tiny_bundle: Path) -> None:
    with pytest.raises(EngineUnavailable) as error:
        pipeline.open(tiny_bundle, engine="torch", device="cuda")
    assert str(error.value).startswith("device='cuda' was requested, and torch finds no GPU here")
    assert "\n" not in str(error.value)
    with pytest.raises(EngineUnavailable, match="torch cannot compute on 'cuda:0' here"):
        opened(tiny_bundle, "cuda:0")


def test_a_decoder_that_fails_and_a_closed_bundle_say_so(open_gan: Any) -> None:
    with open_gan("cpu") as ours:
        latents = np.zeros((2, *ours.manifest.sample_shape), np.float32)
        latents[1] = np.nan
        with pytest.raises(AigcEdgeError, match="the decoder returned a value that is not finite for sample 1"):
            ours.sample(2, latents=latents)
    with pytest.raises(AigcEdgeError, match="closed"):
        ours.sample(1)


def test_constants_of_the_schedule_stand_on_the_device_for_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from aigc_edge.diffusion import build, prepare, sample

    class Network:
        """Takes tanh(timestep) as a constant instead of the timestep; the other way it computes the same."""

        dtype = "float32"

        def __call__(self, sample: Any, timestep: Any, scale: Any) -> Any:
            assert scale.shape == (len(sample), 1, 1, 1)
            assert scale.is_contiguous()
            return torch.tanh(sample) * scale

        def uncapturable(self, batch: int) -> str | None:
            return f"a batch of {batch}"

    program = build({"prediction": "edm"}, "heun", 5, guidance_scale=2.0, guidance_interval=(0.1, 20.0))
    rows = [{"scale": torch.tanh(torch.tensor(row.timestep)).reshape(1, 1, 1, 1)} for row in program.rows]
    latents, both = torch.randn(3, 1, 4, 4), {"conditions": {}, "negative": {}}
    wanted = sample(
        program, lambda sample, timestep: torch.tanh(sample) * torch.tanh(timestep)[:, None, None, None], latents, **both
    )
    ours = device_loop.WithConstants(Network(), rows)
    torch.testing.assert_close(sample(program, ours, latents, **both), wanted)
    assert ours.uncapturable(6) == "a batch of 6"
    recorded = recorded_graphs(monkeypatch)
    monkeypatch.setattr(Network, "uncapturable", lambda self, batch: None)
    loop = prepare(program, device_loop.WithConstants(Network(), rows), torch.randn(3, 1, 4, 4), **both)
    torch.testing.assert_close(loop(latents), wanted)
    assert loop.captured
    assert "replay" in recorded.events
