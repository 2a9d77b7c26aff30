"""A small text-to-image bundle whose text encoder, denoiser and decoder all have layers that int8 can hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.bundle.write import write_members
from aigc_edge.diffusion import build
from tests.text_bundle import LENGTH, SCHEDULE, WORDS, ids_of, tokenizer

__all__ = ["PROMPTS", "ids_of", "write"]
WIDTH, CHANNELS, LATENT, IMAGE = 24, 24, (4, 8, 8), (3, 16, 16)
PROMPTS = ["a red cat", "the moon", "a cat on the moon", "red", "on a red moon", "cat cat", "the red", "a"]
FLOAT = TensorProto.FLOAT


class Graph:
    """Nodes and weights of one network, random but scaled so that activations keep their size."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.nodes, self.weights = rng, [], {}  # type: ignore[var-annotated]

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def weight(self, *shape: int, fan: int = 1, name: str = "") -> str:
        name = name or f"w{len(self.weights)}"
        self.weights[name] = (self.rng.normal(size=shape) / np.sqrt(fan)).astype(np.float32)
        return name

    def constant(self, value: Any, name: str) -> str:
        self.weights[name] = np.asarray(value)
        return name

    def conv(self, x: str, inputs: int, outputs: int) -> str:
        weight = self.weight(outputs, inputs, 3, 3, fan=9 * inputs)
        return self.node("Conv", x, weight, self.weight(outputs, fan=100), pads=[1, 1, 1, 1])

    def model(self, inputs: list[Any], outputs: list[Any]) -> bytes:
        for node, (name, *_) in zip(self.nodes[-len(outputs) :], outputs, strict=True):
            node.output[0] = name
        values = [[helper.make_tensor_value_info(n, kind, ["N", *rest]) for n, kind, rest in part] for part in (inputs, outputs)]
        graph = helper.make_graph(self.nodes, "net", *values, [numpy_helper.from_array(a, n) for n, a in self.weights.items()])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())


def text_encoder(rng: np.random.Generator, pooled: bool) -> bytes:
    """Token ids [N, 6] → text [N, 6, WIDTH], and their mean where `pooled`."""
    g = Graph(rng)
    x = g.node("Gather", g.weight(len(WORDS), WIDTH), "input_ids")
    for _ in range(4):
        x = g.node("Add", x, g.node("Tanh", g.node("MatMul", x, g.weight(WIDTH, WIDTH, fan=WIDTH))))
    x = g.node("MatMul", x, g.weight(WIDTH, WIDTH, fan=WIDTH))
    outputs = [("text", FLOAT, (LENGTH, WIDTH))]
    if pooled:
        g.node("ReduceMean", "text", g.constant([1], "axes"), keepdims=0)
        outputs.append(("pooled", FLOAT, (WIDTH,)))
    return g.model([("input_ids", TensorProto.INT64, (LENGTH,))], outputs)


def denoiser(rng: np.random.Generator, pooled: bool) -> bytes:
    """Five convolutions that a condition and the timestep shift."""
    g = Graph(rng)
    shift = g.node("MatMul", g.node("ReduceMean", "text", g.constant([1], "axes"), keepdims=0), g.weight(WIDTH, CHANNELS, fan=8))
    if pooled:
        shift = g.node("Add", shift, g.node("MatMul", "pooled", g.weight(WIDTH, CHANNELS, fan=8)))
    shift = g.node("Add", shift, g.node("Unsqueeze", "timestep", g.constant([1], "one")))
    shift = g.node("Unsqueeze", shift, g.constant([2, 3], "planes"))
    x = g.conv("sample", LATENT[0], CHANNELS)
    for _ in range(3):
        x = g.node("Tanh", g.node("Add", g.conv(x, CHANNELS, CHANNELS), shift))
    g.conv(x, CHANNELS, LATENT[0])
    inputs = [("sample", FLOAT, LATENT), ("timestep", FLOAT, ()), ("text", FLOAT, (LENGTH, WIDTH))]
    inputs += [("pooled", FLOAT, (WIDTH,))] if pooled else []
    return g.model(inputs, [("output", FLOAT, LATENT)])


def decoder(rng: np.random.Generator, spread: float) -> bytes:
    """Five convolutions, upsampling in between; `spread` > 1 lets a few channels be so much larger, which 8 bits cannot hold."""
    g = Graph(rng)
    x = g.conv("sample", LATENT[0], CHANNELS)
    scales = g.constant(np.where(np.arange(CHANNELS) < 2, spread, 1).astype(np.float32)[:, None, None], "scales")
    for index in range(3):
        x = g.node("Tanh", g.conv(x, CHANNELS, CHANNELS))
        if spread > 1:  # the next layer reads small values beside very large ones that it hardly weights
            x = g.node("Mul", x, scales)
            x = g.conv(x, CHANNELS, CHANNELS)
            g.weights[g.nodes[-1].input[1]][:, :2] /= np.float32(spread)
        if index == 1:
            x = g.node("Resize", x, "", g.constant(np.array([1, 1, 2, 2], np.float32), "twice"), mode="nearest")
    g.node("Tanh", g.conv(x, CHANNELS, 3))
    return g.model([("sample", FLOAT, LATENT)], [("image", FLOAT, IMAGE)])


def write(
    path: Path, rng: np.random.Generator, *, spread: float = 1.0, pooled: bool = False, prompts: list[str] = PROMPTS
) -> Path:
    """Write the bundle in fp32; returns its folder."""

    def tensor(name: str, role: str, dtype: str, *shape: int) -> dict[str, Any]:
        return {"name": name, "role": role, "dtype": dtype, "shape": ["N", *shape]}

    text = [tensor("text", "condition", "float32", LENGTH, WIDTH)]
    text += [tensor("pooled", "condition", "float32", WIDTH)] if pooled else []
    sample = tensor("sample", "sample", "float32", *LATENT)
    components: dict[str, Any] = {
        "text_encoder": {"inputs": [tensor("input_ids", "tokens", "int64", LENGTH)], "outputs": text},
        "denoiser": {
            "inputs": [sample, tensor("timestep", "timestep", "float32"), *text],
            "outputs": [sample | {"name": "output"}],
        },
        "decoder": {"inputs": [sample], "outputs": [tensor("image", "sample", "float32", *IMAGE)]},
    }
    for name, component in components.items():
        component["formats"] = {"fp32": {"file": f"{name}.fp32.onnx"}}
    networks = {"text_encoder": text_encoder(rng, pooled), "denoiser": denoiser(rng, pooled), "decoder": decoder(rng, spread)}
    files = {f"{name}.fp32.onnx": data for name, data in networks.items()} | {"tokenizer/text_encoder.json": tokenizer()}
    entry = {"tokenizer": "tokenizer/text_encoder.json", "length": LENGTH, "pad": 1}
    program = build(SCHEDULE, "euler", 2, guidance_scale=2.0)
    manifest = {
        "name": "small", "family": "", "sample_shape": list(LATENT), "output_shape": list(IMAGE), "output_range": [-1, 1],
        "classes": None, "schedule": SCHEDULE, "default_format": "fp32", "components": components,
        "text": {"encoders": {"text_encoder": entry}, "negative": "encode", "prompts": prompts},
        "programs": {program.name: program.to_json()}, "default_program": program.name, "targets": ["x86-cpu"],
    }  # fmt: skip
    write_members(path, manifest, files)
    return path
