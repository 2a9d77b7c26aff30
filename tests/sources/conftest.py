"""Small folders of diffusers pipelines, and a full sample of a source beside diffusers' own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from aigc_edge.diffusion import Program, sample
from aigc_edge.export.session import session_of
from aigc_edge.sources.base import Source, SourceComponent


class Exported:
    """The parts of a source, exported, checked against torch and loaded in onnxruntime; those of `torch` run as modules.

    An export takes seconds: kinds of networks that another test has exported need not be.
    """

    def __init__(self, source: Source, folder: Path, torch: Sequence[str] = ()) -> None:
        self.source = source
        self.sessions: dict[str, Any] = {}
        for part in source.components():
            if part.spec.name in torch:
                continue
            path = folder / f"{part.spec.name}.onnx"
            part.write(path)
            part.release()
            self.sessions[part.spec.name] = session_of(path)

    def part(self, name: str) -> SourceComponent:
        return next(part for part in self.source.components() if part.spec.name == name)

    def run(self, name: str, **inputs: Any) -> dict[str, np.ndarray]:
        part = self.part(name)
        if name in self.sessions:
            made = self.sessions[name].run(None, inputs)
        else:
            with torch.no_grad():
                found = part.module(*(torch.from_numpy(inputs[t.name]) for t in part.spec.inputs))
            made = [tensor.numpy() for tensor in (found if isinstance(found, tuple) else (found,))]
        return {output.name: value for output, value in zip(part.spec.outputs, made, strict=True)}

    def encode(self, prompts: list[str]) -> dict[str, np.ndarray]:
        """The conditions of prompts, through tokenizer.json files and the exported encoders."""
        from tokenizers import Tokenizer

        assert self.source.text is not None
        found: dict[str, np.ndarray] = {}
        for name, tokens in self.source.text.encoders.items():
            tokenizer = Tokenizer.from_str(tokens.tokenizer.decode())
            tokenizer.enable_truncation(tokens.length)
            tokenizer.enable_padding(length=tokens.length, pad_id=tokens.pad)
            ids = np.array([encoding.ids for encoding in tokenizer.encode_batch(prompts)], np.int64)
            found |= self.run(name, tokens=ids)
        return found

    def sample(
        self,
        program: Program,
        latents: np.ndarray,
        *,
        prompts: list[str] | None = None,
        given: Mapping[str, np.ndarray] | None = None,
        noise: Any = "philox",
    ) -> np.ndarray:
        """Images [N, C, H, W] of unit normal latents; the guidance scale goes in as a number where the denoiser embeds it."""
        denoiser = self.part("denoiser")
        roles = {t.name: t.role for t in denoiser.spec.inputs}
        conditions = dict(given or {})
        negative: dict[str, np.ndarray] | None = None
        if prompts is not None:
            wanted = {name for name, role in roles.items() if role == "condition"}
            encoded = self.encode(prompts)
            assert wanted == set(encoded)
            conditions |= encoded
            assert self.source.text is not None
            empty = self.encode([""]) if self.source.text.negative == "encode" else {k: 0 * v[:1] for k, v in encoded.items()}
            negative = empty
        embedded = [name for name, role in roles.items() if role == "guidance"]
        scale = program.guidance_scale
        if embedded:
            program = program.with_guidance(1.0)

        def network(sample: np.ndarray, timestep: np.ndarray, **more: np.ndarray) -> np.ndarray:
            inputs = {"sample": sample, "timestep": timestep, **more}
            inputs |= {name: np.full(len(sample), scale, np.float32) for name in embedded}
            (output,) = self.run("denoiser", **inputs).values()
            return output

        made = sample(program, network, latents, conditions=conditions, negative=negative, noise=noise)
        return self.run("decoder", latents=made)["image"] if len(self.source.components()) > 1 else np.asarray(made)

    @staticmethod
    def psnr(image: np.ndarray, wanted: np.ndarray) -> float:
        """Of an image in -1 … 1 to one of diffusers', in 0 … 1 and clipped."""
        shown = np.clip(np.asarray(image, np.float64) / 2 + 0.5, 0, 1)
        assert shown.shape == wanted.shape
        assert wanted.std() > 0.02, "an even image proves nothing"
        return float(10 * np.log10(1 / np.mean((shown - wanted) ** 2)))


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[..., np.ndarray]:
    """Images of the default program of the bundle that a source is compiled to, drawn by the native runtime."""

    def draw(source: Source, steps: int, latents: np.ndarray, prompts: list[str], **options: Any) -> np.ndarray:
        import aigc_edge
        from aigc_edge.compile import compile_source

        bundle = tmp_path / "compiled.aigc"
        compile_source(source, bundle, formats=["fp32", "int8w:psnr=15"], steps=steps, samples=2, threads=1)
        with aigc_edge.open(bundle, threads=1) as pipeline:
            assert pipeline.manifest.quality["int8w"]["psnr"] > 15
            return np.asarray(pipeline.sample(len(latents), prompt=prompts, latents=latents, output="float32", **options))

    return draw


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., Exported]:
    """Exports the parts of a source, but those of `torch`; the result can run them and compare images."""
    return lambda source, torch=(): Exported(source, tmp_path, torch)


def _bytes() -> list[str]:
    """The letters that byte-level BPE writes the 256 bytes in."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [*map(chr, plain), *(chr(256 + n) for n in range(256 - len(plain)))]


@pytest.fixture
def clip_tokenizer() -> Callable[..., None]:
    """Writes a small CLIP tokenizer as the files of Stable Diffusion's folders are: vocab.json, merges.txt, configuration."""

    def write(folder: Path, length: int, pad: str = "<|endoftext|>") -> None:
        letters = _bytes()
        merges = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"), ("r", "e"), ("re", "d</w>"), ("o", "n</w>")]
        words = [*letters, *(f"{letter}</w>" for letter in letters), *(a + b for a, b in merges)]
        words += ["<|startoftext|>", "<|endoftext|>"]
        folder.mkdir(parents=True)
        (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
        (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
        special = {"bos_token": words[-2], "eos_token": words[-1], "unk_token": words[-1], "pad_token": pad}
        config = special | {"tokenizer_class": "CLIPTokenizer", "model_max_length": length, "do_lower_case": True}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))

    return write


CLIP_WORDS = 521  # of the small CLIP tokenizer


@pytest.fixture
def clip_model() -> Callable[..., Any]:
    """A small CLIP text model with random weights, of a width, with a projection where one is asked for."""

    def make(length: int, width: int = 16, projection: int = 0, layers: int = 2) -> Any:
        import transformers

        config = transformers.CLIPTextConfig(
            vocab_size=CLIP_WORDS,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=length,
            projection_dim=projection or 512,
            bos_token_id=CLIP_WORDS - 2,
            eos_token_id=CLIP_WORDS - 1,
            pad_token_id=CLIP_WORDS - 1,
        )
        kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
        model = kind(config)
        for weight in model.parameters():  # larger than CLIP's first weights, so that prompts differ
            weight.data += 0.1 * torch.randn_like(weight)
        return model

    return make


@pytest.fixture
def t5_tokenizer() -> Callable[..., Any]:
    """A small T5 tokenizer (unigram), of the class that folders of SD3 and FLUX hold."""

    def make() -> Any:
        import transformers

        words = ["▁", *"abcdefghijklmnopqrstuvwxyzé,:0123456789", "▁a", "▁red", "▁cat", "▁dog", "▁on", "s"]
        pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((word, -1.0 - i / 50) for i, word in enumerate(words))]
        return transformers.T5TokenizerFast(vocab=pieces, extra_ids=0)

    return make


@pytest.fixture
def t5_model() -> Callable[..., Any]:
    """A small T5 encoder with random weights, of a width."""

    def make(width: int = 16) -> Any:
        import transformers

        sizes = {"d_model": width, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": 64}
        return transformers.T5EncoderModel(transformers.T5Config(**sizes, feed_forward_proj="gated-gelu"))

    return make


@pytest.fixture(autouse=True)
def torch_rng(rng: np.random.Generator) -> None:
    """Random weights of their own in each test."""
    torch.manual_seed(int(rng.integers(2**31)))


class Denoiser(nn.Module):
    """F(sample [N, 3, 8, 8], timestep [N], classes [N] or nothing) with weights that differ from zero."""

    def __init__(self, classes: int = 0) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
        self.time = nn.Sequential(nn.Linear(1, 32), nn.SiLU(), nn.Linear(32, 16))
        self.classes = nn.Embedding(classes + 1, 16) if classes else None

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        embedding = self.time(timestep[:, None] / 1000)
        if self.classes is not None:
            embedding = embedding + self.classes(labels)
        return self.last(nn.functional.silu(self.first(sample) + embedding[:, :, None, None]))


class Decoder(nn.Module):
    """[N, 6] → [N, 3, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 192))

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layers(sample)).reshape(-1, 3, 8, 8)


@pytest.fixture
def denoiser():
    return Denoiser


@pytest.fixture
def decoder():
    return Decoder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
