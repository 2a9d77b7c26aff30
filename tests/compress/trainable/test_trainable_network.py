"""Whole networks in torch against onnxruntime, their gradients against differences, and what is written back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.compress.graphs import graph
from aigc_edge.compress.trainable.network import Trainable


def feeds(model: onnx.ModelProto, rng: np.random.Generator, batch: int = 3) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [size.dim_value or batch for size in kind.shape.dim]
        whole = kind.elem_type == TensorProto.INT64
        found[value.name] = rng.integers(0, 3, shape) if whole else rng.standard_normal(shape, np.float32)
    return found


def compare(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    inputs = feeds(model, rng)
    wanted = graph.Network(model, exact=True)(inputs)
    network = Trainable(model)
    made = network({name: torch.from_numpy(value) for name, value in inputs.items()})
    for a, b in zip(made, wanted, strict=True):
        assert np.linalg.norm(a.detach().numpy() - b) <= 3e-6 * np.linalg.norm(b)
    made[0].square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    again = graph.Network(network.trained(), exact=True)(inputs)
    for a, b in zip(again, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("family", ["diffusion", "gan", "transformer"])
def test_families(families: dict[str, Any], family: str, rng: np.random.Generator) -> None:
    compare(graph.load(families[family][0]), rng)


def test_quantised_bundle(tiny_bundle: Path, rng: np.random.Generator) -> None:
    """The bundle's own int8 file, whose activations are rounded: the same codes but for edges, in few samples."""
    model = graph.load(tiny_bundle / "denoiser.int8.onnx")
    inputs = feeds(model, rng, batch=32)
    wanted = graph.Network(model, exact=True)(inputs)[0]
    with torch.no_grad():
        made = Trainable(model)({name: torch.from_numpy(value) for name, value in inputs.items()})[0].numpy()
    original = graph.Network(tiny_bundle / "denoiser.fp32.onnx")(inputs)[0]
    apart, rounding = (np.linalg.norm(d.reshape(len(d), -1), axis=1) for d in (made - wanted, wanted - original))
    assert np.median(apart / rounding) < 0.01


def test_diffusers_unet_with_conditions(rng: np.random.Generator) -> None:
    diffusers = pytest.importorskip("diffusers")
    net = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16,),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=12,
        attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("UpBlock2D",),
    ).eval()

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor, t: torch.Tensor, e: torch.Tensor) -> Any:
            return self.net(x, t, e).sample

    batch = torch.export.Dim("batch", max=63)
    example = (torch.randn(2, 4, 8, 8), torch.rand(2) * 900, torch.randn(2, 5, 12))
    program = torch.onnx.export(
        Plain().eval(), example, dynamo=True, opset_version=20, dynamic_shapes=tuple({0: batch} for _ in example), verbose=False
    )
    compare(program.model_proto, rng)


def test_gradient_against_differences(families: dict[str, Any], rng: np.random.Generator) -> None:
    """Along a random direction of all weights, by central differences of onnxruntime's results in float64 sums."""
    model = graph.load(families["transformer"][0])
    inputs = feeds(model, rng)
    network = Trainable(model)
    made = network({name: torch.from_numpy(value) for name, value in inputs.items()})[0]
    side = rng.standard_normal(made.shape).astype(np.float32)
    (made * torch.from_numpy(side)).sum().backward()
    step, expected = 1e-3, 0.0
    directions = [
        torch.from_numpy(rng.standard_normal(p.shape).astype(np.float32)) * p.detach().std().nan_to_num()
        for p in network.parameters()
    ]
    for parameter, direction in zip(network.parameters(), directions, strict=True):
        assert parameter.grad is not None
        expected += float((parameter.grad.double() * direction.double()).sum())
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, direction in zip(network.parameters(), directions, strict=True):
                parameter += sign * step * direction
            ends.append(float((graph.Network(network.trained())(inputs)[0].astype(np.float64) * side).sum()))
            for parameter, direction in zip(network.parameters(), directions, strict=True):
                parameter -= sign * step * direction
    assert abs((ends[0] - ends[1]) / (2 * step) - expected) < 0.02 * abs(expected) + 0.05


@pytest.mark.parametrize(("dtype", "block"), [(np.int8, 0), (ml_dtypes.int4, 4), (ml_dtypes.float8_e4m3fn, 0)])
def test_codes_move_with_their_latents(dtype: Any, block: int, rng: np.random.Generator) -> None:
    """A weight behind a DequantizeLinear computes as it is rounded, learns below a unit, and is written back in its type."""
    codes = rng.integers(-6, 7, (8, 6)).astype(np.float32)
    scale = rng.uniform(0.1, 0.2, (2, 6) if block else (6,)).astype(np.float32)
    attributes: dict[str, int] = {"axis": 0, "block_size": block} if block else {"axis": 1}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"], **attributes),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", c]) for n, c in (("x", 8), ("y", 6))]
    tensors = [numpy_helper.from_array(codes.astype(dtype), "w"), numpy_helper.from_array(scale, "s")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors), opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    inside = 0.0 if dtype is ml_dtypes.float8_e4m3fn else 0.05  # a float type has values between whole numbers
    latents = codes + rng.uniform(-inside, inside, codes.shape).astype(np.float32)
    network = Trainable(model, {"w": latents})
    x = torch.from_numpy(rng.standard_normal((5, 8), np.float32))
    spread = scale.repeat(4, axis=0) if block else scale
    (made,) = network({"x": x})
    np.testing.assert_allclose(made.detach().numpy(), x.numpy() @ (codes * spread), rtol=1e-4, atol=1e-5)
    (parameter,) = network.parameters()  # the scales stay
    with torch.no_grad():
        parameter += 0.97
    (moved,) = [tensor for tensor in network.trained().graph.initializer if tensor.name == "w"]
    assert moved.data_type == model.graph.initializer[0].data_type
    expected = np.rint(latents + 0.97).clip(-7, 7) if inside else (latents + np.float32(0.97)).astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(numpy_helper.to_array(moved).astype(np.float32), expected)
