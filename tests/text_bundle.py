"""A tiny text-to-image bundle of real ONNX files, and the same networks in NumPy: prompt, encoder, denoiser and decoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.bundle.write import write_members
from aigc_edge.diffusion import build, reference

WORDS = ["<unk>", "<pad>", "<s>", "</s>", "a", "red", "cat", "on", "the", "moon"]
LENGTH, WIDTH, POOLED = 6, 5, 4
SHAPE, OUTPUT = (3, 8, 8), (3, 16, 16)
SCHEDULE = {"prediction": "flow"}
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def tokenizer() -> bytes:
    """Words between <s> and </s>, in lower case."""
    import tokenizers

    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.normalizer = tokenizers.normalizers.Lowercase()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)])
    return bytes(made.to_str().encode())


def ids_of(prompt: str) -> list[int]:
    """The same by hand."""
    found = [WORDS.index(word) if word in WORDS else 0 for word in prompt.lower().split()]
    whole = [2, *found[: LENGTH - 2], 3]
    return whole + [1] * (LENGTH - len(whole))


def _model(nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, np.ndarray]) -> bytes:
    values = [
        [helper.make_tensor_value_info(name, kind, ["N", *rest]) for name, kind, rest in part] for part in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "toy", *values, [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _tensor(name: str, role: str, dtype: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "role": role, "dtype": dtype, "shape": ["N", *shape]}


class TextToImage:
    """The networks with random weights; `guidance` takes the scale as a number, `encoders` whether prompts are understood."""

    def __init__(self, rng: np.random.Generator, *, guidance: bool = False, encoders: bool = True) -> None:
        sizes = {"embedding": (10, WIDTH), "pool": (WIDTH, POOLED), "text_w": (LENGTH * WIDTH, 3), "pooled_w": (POOLED, 3)}
        self.weights = {name: (rng.normal(size=size) / 2).astype(np.float32) for name, size in sizes.items()}
        self.guidance, self.encoders = guidance, encoders

    def encode(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Token ids [N, 6] → conditions."""
        text = np.tanh(self.weights["embedding"][ids])
        return {"text": text, "pooled": text.mean(1) @ self.weights["pool"]}

    def denoise(self, sample: np.ndarray, timestep: np.ndarray, labels: Any = None, **given: np.ndarray) -> np.ndarray:
        """The denoiser; `scale` only with guidance as a number."""
        shift = given["text"].reshape(len(sample), -1) @ self.weights["text_w"] + given["pooled"] @ self.weights["pooled_w"]
        shift = shift + timestep[:, None] + (0.1 * given["scale"][:, None] if self.guidance else 0)
        return np.tanh(sample + shift[:, :, None, None])

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """[N, 3, 8, 8] → [N, 3, 16, 16]."""
        return np.tanh(latents.repeat(2, 2).repeat(2, 3))

    def image(self, prompts: Sequence[str], negatives: Sequence[str] | None, latents: np.ndarray, program: Any) -> np.ndarray:
        """What the bundle has to draw: float64 [N, 3, 16, 16] in the output range."""
        own, other = ({} if p is None else self.encode(np.array([ids_of(text) for text in p])) for p in (prompts, negatives))
        options = {"guidance_input": "scale"} if self.guidance else {"negative_conditions": other}
        return reference.run(program, self.denoise, latents, conditions=own, decoder=lambda z, labels: self.decode(z), **options)

    def _files(self) -> dict[str, bytes]:
        node, weights = helper.make_node, self.weights
        encoder = [
            node("Gather", ["embedding", "input_ids"], ["gathered"]),
            node("Tanh", ["gathered"], ["text"]),
            node("ReduceMean", ["text", "axes"], ["mean"], keepdims=0),
            node("MatMul", ["mean", "pool"], ["pooled"]),
        ]
        denoiser = [
            node("Flatten", ["text"], ["flat"]),
            node("MatMul", ["flat", "text_w"], ["a"]),
            node("MatMul", ["pooled", "pooled_w"], ["b"]),
            node("Unsqueeze", ["timestep", "one"], ["t"]),
            node("Sum", ["a", "b", "t", *(["g"] if self.guidance else [])], ["shift"]),
            node("Unsqueeze", ["shift", "planes"], ["planes_of"]),
            node("Add", ["sample", "planes_of"], ["moved"]),
            node("Tanh", ["moved"], ["output"]),
        ]
        if self.guidance:
            denoiser[4:4] = [node("Mul", ["scale", "tenth"], ["small"]), node("Unsqueeze", ["small", "one"], ["g"])]
        inputs = [
            ("sample", FLOAT, SHAPE),
            ("timestep", FLOAT, ()),
            ("text", FLOAT, (LENGTH, WIDTH)),
            ("pooled", FLOAT, (POOLED,)),
        ]
        inputs += [("scale", FLOAT, ())] if self.guidance else []
        constants = {"one": np.array([1]), "planes": np.array([2, 3]), "tenth": np.array([0.1], np.float32)}
        decoder = [
            node("Resize", ["sample", "", "twice"], ["large"], mode="nearest", coordinate_transformation_mode="asymmetric"),
            node("Tanh", ["large"], ["image"]),
        ]
        outputs = [("text", FLOAT, (LENGTH, WIDTH)), ("pooled", FLOAT, (POOLED,))]
        own = {"embedding": weights["embedding"], "pool": weights["pool"], "axes": np.array([1])}
        used = {"text_w": weights["text_w"], "pooled_w": weights["pooled_w"]} | constants
        return {
            "text_encoder.onnx": _model(encoder, [("input_ids", INT64, (LENGTH,))], outputs, own),
            "denoiser.onnx": _model(denoiser, inputs, [("output", FLOAT, SHAPE)], used),
            "decoder.onnx": _model(
                decoder, [("sample", FLOAT, SHAPE)], [("image", FLOAT, OUTPUT)], {"twice": np.array([1, 1, 2, 2], np.float32)}
            ),
        }

    def write(self, path: Path, **changes: Any) -> Path:
        """Write the bundle; returns its folder."""
        given = [_tensor("text", "condition", "float32", LENGTH, WIDTH), _tensor("pooled", "condition", "float32", POOLED)]
        scale = [_tensor("scale", "guidance", "float32")] if self.guidance else []
        sample = _tensor("sample", "sample", "float32", *SHAPE)
        components: dict[str, Any] = {
            "denoiser": {
                "inputs": [sample, _tensor("timestep", "timestep", "float32"), *given, *scale],
                "outputs": [sample | {"name": "output"}],
            },
            "decoder": {"inputs": [sample], "outputs": [_tensor("image", "sample", "float32", *OUTPUT)]},
        }
        files = self._files()
        text = None
        if self.encoders:
            components["text_encoder"] = {"inputs": [_tensor("input_ids", "tokens", "int64", LENGTH)], "outputs": given}
            files["tokenizer/text_encoder.json"] = tokenizer()
            entry = {"tokenizer": "tokenizer/text_encoder.json", "length": LENGTH, "pad": 1}
            text = {"encoders": {"text_encoder": entry}, "negative": "encode"}
        else:
            del files["text_encoder.onnx"]
        for name, component in components.items():
            component["formats"] = {"fp32": {"file": f"{name}.onnx"}}
        program = build(SCHEDULE, "euler", 4, guidance_scale=2.0)
        manifest = {
            "name": "toy", "family": "", "sample_shape": list(SHAPE), "output_shape": list(OUTPUT), "output_range": [-1, 1],
            "classes": None, "schedule": SCHEDULE, "default_format": "fp32", "components": components, "text": text,
            "programs": {program.name: program.to_json()}, "default_program": program.name,
        }  # fmt: skip
        write_members(path, manifest | changes, files)
        return path
