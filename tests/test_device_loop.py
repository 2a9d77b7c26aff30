"""The loop on a GPU against the one on the CPU: the same bundle, seeds and classes.

An emulated GPU, whose memory torch's CPU tensors see, stands in for one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_edge import _core
from aigc_edge.engines.base import ENGINES
from aigc_edge.errors import AigcEdgeError, EngineUnavailable
from aigc_edge.ops._philox import philox
from aigc_edge.runtime import device as devices
from aigc_edge.runtime import pipeline

torch = pytest.importorskip("torch")
GPU = not _core.cuda_unavailable() and torch.cuda.is_available()
ON_GPU = pytest.param("cuda:0", marks=pytest.mark.skipif(not GPU, reason="needs a GPU, torch with CUDA and CUDA kernels"))


@pytest.fixture(params=["cpu", ON_GPU])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "cpu":
        request.getfixturevalue("emulated_gpu")
    else:  # TF32 would be rounding of another kind
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return str(request.param)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, emulated_gpu: Any) -> Any:
    """Capture and replay on CPU tensors."""
    from tests.recorded_graphs import RecordedGraphs

    return RecordedGraphs(monkeypatch, emulated_gpu)


def opened(bundle: Path, device: str | None = None) -> pipeline.Pipeline:
    """The torch engine, on the CPU or on a device."""
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


def test_counts_above_one_batch(tiny_bundle: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "MAX_BATCH", 3)
    with opened(tiny_bundle) as native, opened(tiny_bundle, device) as ours:
        bound: list[int] = []
        bind = ours._networks._bind_device

        def watched(component: str, inputs: Any, outputs: Any) -> Any:
            bound.append(inputs["sample"]["shape"][0])
            return bind(component, inputs, outputs)

        monkeypatch.setattr(ours._networks, "_bind_device", watched)
        for _ in range(2):
            close(ours.sample(7, seed=5, steps=3), native.sample(7, seed=5, steps=3))
        assert bound == [6, 6, 6, 2, 2, 2]  # per row; the second batch has the loop of the first
        ours.sample(3, steps=3, guidance_scale=1.0)  # guidance stands in the kernels: another loop
        assert bound[6:] == [3, 3, 3]


def test_a_whole_bundle_in_recorded_graphs(tiny_bundle: Path, recorded: Any, rng: np.random.Generator) -> None:
    with opened(tiny_bundle) as native, opened(tiny_bundle, "cpu") as ours:
        for solver in (None, "euler_ancestral"):
            for run in range(4):
                classes = None if run == 3 else rng.integers(-1, 10, 2)
                seed = int(rng.integers(2**40))
                options: dict[str, Any] = {"seed": seed, "classes": classes, "solver": solver, "output": "float32"}
                recorded.events.clear()
                close(ours.sample(2, **options), native.sample(2, **options))
                assert (ours.reason is None) == (run > 0)
                assert recorded.events.count("capture begins") == (run == 1)
                assert recorded.events.count("replay") == (run > 0)
        assert len(recorded.records) == 2  # one of each program
        told: list[tuple[int, int]] = []
        ours.sample(2, solver="euler_ancestral", progress=lambda *row: told.append(row))
        assert len(told) == len(native.program(solver="euler_ancestral").rows)
        assert "progress" in str(ours.reason)


@pytest.mark.parametrize("kind", ["reads back", "limited", "interrupted"])
def test_a_network_that_cannot_be_captured(tiny_bundle: Path, recorded: Any, kind: str) -> None:
    with opened(tiny_bundle) as native, opened(tiny_bundle, "cpu") as ours:
        inner = ours._networks._on_device["denoiser"]

        class Network:
            def __call__(self, sample: Any, timestep: Any, **conditions: Any) -> Any:
                if kind == "reads back":
                    float(timestep[0])
                if kind == "interrupted" and recorded.recording is not None:
                    raise KeyboardInterrupt
                return inner(sample, timestep, **conditions)

            def uncapturable(self, batch: int) -> str | None:
                return f"a batch of {batch} is larger than 2" if kind == "limited" else None

        ours._networks._on_device["denoiser"] = Network()
        ours.sample(2, seed=3)
        if kind == "interrupted":
            with pytest.raises(KeyboardInterrupt):
                ours.sample(2, seed=3)
            return
        reason = {"reads back": "the network cannot be captured (RuntimeError: CUDA error", "limited": "a batch of 4 is larger"}
        for _ in range(2):
            close(ours.sample(2, seed=3), native.sample(2, seed=3))
            assert str(ours.reason).startswith(reason[kind])
            assert "\n" not in str(ours.reason)


def test_a_generator_of_one_evaluation(open_gan: Any, emulated_gpu: Any) -> None:
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
    first = philox((0, 0xFFFFFFFF, 0, 0), (seeds & np.uint64(0xFFFFFFFF), seeds >> np.uint64(32)))[0].astype(np.uint64)
    np.testing.assert_array_equal((first * np.uint64(10) >> np.uint64(32)).astype(np.int64), found)
    assert len(set(found.tolist())) > 5


def test_where_it_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_engine, onnx, tensorrt = (ENGINES[name] for name in ("torch", "onnxruntime", "tensorrt"))
    monkeypatch.setattr(devices, "without_gpu", lambda: None)
    assert devices.choose(torch_engine, "cuda") == ("cuda:0", None)
    assert devices.choose(tensorrt, "auto") == ("cuda:0", None)
    for engine, device in ((torch_engine, "auto"), (torch_engine, "cpu"), (onnx, "auto")):
        assert devices.choose(engine, device) == (None, "the device is the CPU")
    with pytest.raises(AigcEdgeError, match="'tensorrt' computes on a GPU only"):
        devices.choose(tensorrt, "cpu")
    with pytest.raises(EngineUnavailable, match="'onnxruntime' computes on the CPU only: for a GPU choose the engine torch"):
        devices.choose(onnx, "cuda")
    with pytest.raises(AigcEdgeError, match="device is 'tpu': it must be one of auto, cpu, cuda"):
        devices.choose(onnx, "tpu")
    monkeypatch.setattr(devices, "without_gpu", lambda: "torch is not installed: do")
    place, reason = devices.choose(tensorrt, "auto")
    assert place is None
    assert reason == "the loop runs on the CPU around a network on the GPU: torch is not installed: do"


@pytest.mark.skipif(GPU, reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_a_sentence(tiny_bundle: Path) -> None:
    with pytest.raises(EngineUnavailable) as error:
        pipeline.open(tiny_bundle, engine="torch", device="cuda")
    assert str(error.value).startswith("device='cuda' was requested, and torch finds no GPU here")
    assert "\n" not in str(error.value)
    with pytest.raises(EngineUnavailable, match="torch finds no GPU here"):
        opened(tiny_bundle, "cuda:0")
    for bind in (None, lambda *_: None):
        with pytest.raises(AigcEdgeError, match=r"^the device is CUDA, and (this build|there is) [^\n]*; or choose the CPU$"):
            _core.Handle(str(tiny_bundle), bind, device=1)


def test_a_decoder_that_fails_and_a_closed_bundle_say_so(open_gan: Any, emulated_gpu: Any) -> None:
    with open_gan("cpu") as ours:
        latents = np.zeros((2, *ours.manifest.sample_shape), np.float32)
        latents[1] = np.nan
        with pytest.raises(AigcEdgeError, match="decoder returned a value that is not finite after the last row for sample 1"):
            ours.sample(2, latents=latents)
    with pytest.raises(AigcEdgeError, match="closed"):
        ours.sample(1)
