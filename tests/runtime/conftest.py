"""Synthetic bundles whose networks are exact functions, evaluated by an engine made for the tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from aigc_edge.bundle.write import write_members
from aigc_edge.diffusion import build
from aigc_edge.engines.base import ENGINES, Engine
from aigc_edge.runtime import pipeline

SHAPE = (2, 3, 5)  # odd, and not a multiple of any vector width
CLASSES = 4
SCHEDULE = {"prediction": "edm", "sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}


def denoiser(sample: np.ndarray, timestep: np.ndarray, class_labels: np.ndarray | None = None) -> np.ndarray:
    """A smooth network that mixes neighbours and depends on the time and on the class (CLASSES: none)."""
    labels = np.zeros(len(sample)) if class_labels is None else class_labels
    each = (slice(None),) + (None,) * (sample.ndim - 1)
    neighbours = np.roll(sample, 1, axis=-1)
    return (np.tanh(sample + 0.3 * neighbours) * (0.2 + 0.1 * labels[each]) + 0.05 * np.cos(timestep)[each]).astype(sample.dtype)


def schedule(timestep: np.ndarray) -> dict[str, np.ndarray]:
    """Constants [N] and [N, 2, 1, 1] of the timestep: products only, which no batch size rounds differently."""
    return {"constant_0": timestep * timestep, "constant_1": np.stack([timestep, 3 - timestep], 1)[:, :, None, None]}


def split_denoiser(sample: np.ndarray, class_labels: np.ndarray, constant_0: np.ndarray, constant_1: np.ndarray) -> np.ndarray:
    """A network that takes the constants of `schedule`."""
    scale = 0.2 + 0.1 * class_labels[:, None, None, None] + 0.05 * constant_0[:, None, None, None]
    return (np.tanh(sample) * scale + 0.1 * constant_1).astype(sample.dtype)


def whole_denoiser(sample: np.ndarray, timestep: np.ndarray, class_labels: np.ndarray) -> np.ndarray:
    """The same network with its schedule."""
    return split_denoiser(sample, class_labels, **schedule(timestep))


def text_denoiser(
    sample: np.ndarray, timestep: np.ndarray, text: np.ndarray, pooled: np.ndarray, class_labels: np.ndarray | None = None
) -> np.ndarray:
    """The network of `denoiser` that depends on both conditions, each sample on its own."""
    shift = np.sin(text).sum(axis=(1, 2)) + pooled[:, 0] * pooled[:, 1]
    return (denoiser(sample, timestep, class_labels) + 0.1 * shift[:, None, None, None]).astype(sample.dtype)


def text_encoder(input_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Conditions [N, 4, 3] and [N, 2] of token ids [N, 6]."""
    ids = input_ids.astype(np.float64)
    grid = np.cos(ids[:, :4, None] * np.arange(1, 4) + ids[:, -1:, None])
    return {"text": grid.astype(np.float32), "pooled": np.sin(ids[:, 1:3] * ids.sum(1, keepdims=True)).astype(np.float32)}


WORDS = ["<unk>", "<pad>", "<s>", "</s>", "a", "red", "cat", "on", "the", "moon"]


def words() -> bytes:
    """A tokenizer file: words between <s> and </s>, in lower case."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.normalizer = tokenizers.normalizers.Lowercase()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)])
    return made.to_str().encode()


def ids_of(prompt: str, length: int = 6) -> list[int]:
    """The same without the library."""
    found = [WORDS.index(word) if word in WORDS else 0 for word in prompt.lower().split()]
    whole = [2, *found[: length - 2], 3]
    return whole + [1] * (length - len(whole))


def decoder(sample: np.ndarray, class_labels: np.ndarray | None = None) -> np.ndarray:
    """One-shot generator: [N, 6] → [N, *SHAPE]."""
    labels = np.zeros(len(sample)) if class_labels is None else class_labels
    grid = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    return np.sin(sample[:, :1, None, None] * 3 + grid + labels[:, None, None, None]).astype(sample.dtype)


class AnalyticEngine(Engine):
    """Evaluates the functions above in float32; `networks` may be replaced by a test, `calls` counts rows and batch sizes."""

    name = "analytic"
    networks: ClassVar[dict[str, Callable[..., np.ndarray]]] = {}
    calls: ClassVar[list[tuple[str, int]]] = []

    def __init__(self, spec: Any) -> None:
        self.spec = spec

    @classmethod
    def unavailable(cls) -> str | None:
        return None

    @classmethod
    def load(cls, source: Any, *, threads: int) -> Engine:
        return cls(source.spec)

    def bind(self, inputs: Any, outputs: Any) -> Callable[[], None]:
        network, batch = self.networks[self.spec.name], len(next(iter(outputs.values())))

        def call() -> None:
            AnalyticEngine.calls.append((self.spec.name, batch))
            made = network(**inputs)
            for name, output in outputs.items():
                output[...] = made[name] if isinstance(made, dict) else made

        return call


@pytest.fixture
def toy() -> SimpleNamespace:
    """What the synthetic bundles are made of."""
    return SimpleNamespace(SHAPE=SHAPE, CLASSES=CLASSES, SCHEDULE=SCHEDULE, denoiser=denoiser, decoder=decoder, manifest=manifest,
                           schedule=schedule, split_denoiser=split_denoiser, whole_denoiser=whole_denoiser,
                           text_denoiser=text_denoiser, text_encoder=text_encoder, ids_of=ids_of)  # fmt: skip


@pytest.fixture
def engine() -> type[AnalyticEngine]:
    """The analytic engine, fresh."""
    if "analytic" not in ENGINES:
        ENGINES.register("analytic")(AnalyticEngine)
    AnalyticEngine.networks = {"denoiser": denoiser, "decoder": decoder, "schedule": schedule}
    AnalyticEngine.calls = []
    return AnalyticEngine


def _tensor(name: str, role: str, dtype: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "role": role, "dtype": dtype, "shape": ["N", *shape]}


def manifest(kind: str = "diffusion", classes: int = CLASSES) -> dict[str, Any]:
    """A manifest without its files; `kind` is "diffusion", "constants" (the same with schedule constants), "text" (with
    conditions and a text encoder) or "gan"."""
    label = [_tensor("class_labels", "class", "int64")] if classes else []
    value: dict[str, Any] = {
        "name": "toy", "family": "gan" if kind == "gan" else "diffusion",
        "output_shape": list(SHAPE), "output_range": [-1, 1], "default_format": "fp32",
        "classes": {"count": classes, "names": [str(i) for i in range(classes)]} if classes else None,
    }  # fmt: skip
    if kind == "gan":
        spec = {
            "inputs": [_tensor("sample", "sample", "float32", 6), *label],
            "outputs": [_tensor("output", "sample", "float32", *SHAPE)],
        }
        program = {"version": 1, "name": "one-shot", "slots": 1, "init_scale": 0.5, "guidance_scale": 1.0, "rows": []}
        return value | {"sample_shape": [6], "schedule": None, "default_program": "one-shot", "programs": {"one-shot": program},
                        "components": {"decoder": spec | {"formats": {"fp32": {"file": "net.onnx"}}}}}  # fmt: skip
    inputs = [_tensor("sample", "sample", "float32", *SHAPE), _tensor("timestep", "timestep", "float32"), *label]
    spec = {"inputs": inputs, "outputs": [_tensor("output", "sample", "float32", *SHAPE)]}
    programs = {
        p.name: p.to_json() for p in (build(SCHEDULE, s, 6, guidance_scale=2.0) for s in ("dpmpp_2m", "euler_ancestral", "heun"))
    }
    extra: dict[str, Any] = {}
    if kind == "constants":
        constants = [_tensor("constant_0", "constant", "float32"), _tensor("constant_1", "constant", "float32", 2, 1, 1)]
        spec["inputs"] += constants
        spec["onnx_inputs"] = ["sample", "class_labels", "constant_0", "constant_1"]
        extra = {"inputs": [inputs[1]], "outputs": constants, "formats": {"fp32": {"file": "schedule.onnx"}}}
        timesteps = sorted({float(np.float32(row["timestep"])) for p in programs.values() for row in p["rows"]})
        extra = {"schedule": extra | {"table": {"file": "schedule.table", "timesteps": timesteps}}}
    if kind == "text":
        conditions = [_tensor("text", "condition", "float32", 4, 3), _tensor("pooled", "condition", "float32", 2)]
        spec["inputs"] += conditions
        tokens = [_tensor("input_ids", "tokens", "int64", 6)]
        extra = {"text_encoder": {"inputs": tokens, "outputs": conditions, "formats": {"fp32": {"file": "text.onnx"}}}}
        entry = {"tokenizer": "tokenizer/text.json", "length": 6, "pad": 1}
        value["text"] = {"encoders": {"text_encoder": entry}, "negative": "encode"}
    return value | {"sample_shape": list(SHAPE), "schedule": SCHEDULE, "default_program": "dpmpp_2m-6", "programs": programs,
                    "components": {"denoiser": spec | {"formats": {"fp32": {"file": "net.onnx"}}}} | extra}  # fmt: skip


def table(value: dict[str, Any]) -> bytes:
    """The table that the manifest of kind "constants" describes."""
    times = np.array(value["components"]["schedule"]["table"]["timesteps"], np.float32)
    return np.concatenate([made.reshape(len(times), -1) for made in schedule(times).values()], axis=1).astype("<f4").tobytes()


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """make_bundle(kind="diffusion", classes=…, **changes of the manifest) writes a bundle and returns its folder."""

    def make(kind: str = "diffusion", classes: int = CLASSES, **changes: Any) -> Path:
        path = tmp_path / f"bundle{len(list(tmp_path.iterdir()))}.aigc"
        made, text = manifest(kind, classes), b"the analytic engine reads no file"
        files = {"schedule.onnx": text, "schedule.table": table(made)} if kind == "constants" else {}
        files |= {"text.onnx": text, "tokenizer/text.json": words()} if kind == "text" else {}
        write_members(path, made | changes, {"net.onnx": text} | files)
        return path

    return make


@pytest.fixture
def open_toy(engine: type[AnalyticEngine], make_bundle: Callable[..., Path]) -> Callable[..., pipeline.Pipeline]:
    """open_toy(kind, classes, threads=…) opens a fresh synthetic bundle with the analytic engine."""

    def make(kind: str = "diffusion", classes: int = CLASSES, threads: int = 1, **changes: Any) -> pipeline.Pipeline:
        return pipeline.open(make_bundle(kind, classes, **changes), engine="analytic", threads=threads)

    return make
