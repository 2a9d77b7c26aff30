"""Small networks to compress: a convolution, matrix products, two convolutions with a ReLU between, and a UNet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.bundle.spec import BATCH, ComponentSpec, TensorSpec
from aigc_edge.compress.calibration.trajectory import Calibration
from aigc_edge.diffusion import Program, build
from aigc_edge.models.base import FAMILIES
from tests.compress.families import digits, exported, generator, transformer

ONE_SHOT = Program(name="one", slots=1, init_scale=1.0, rows=())


@dataclass
class Net:
    """An ONNX model with its spec, and the program that its calibration runs."""

    name: str
    model: onnx.ModelProto
    spec: ComponentSpec
    program: Program
    classes: int = 0

    def write(self, folder: Path) -> Path:
        path = folder / f"{self.name}.onnx"
        onnx.save(self.model, path)
        return path

    def calibration(self, n: int = 6, seed: int = 0) -> Calibration:
        return Calibration.draw(self.spec, self.program, n, num_classes=self.classes, seed=seed)


def decoder(name: str, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], shape: list[int], out: list[int]) -> Net:
    """A one-shot network from "x" to "y"."""
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", *s]) for n, s in (("x", shape), ("y", out))]
    weights = [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()]
    graph = helper.make_graph(nodes, name, values[:1], values[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    inputs = (TensorSpec("x", "sample", "float32", (BATCH, *shape)),)
    return Net(name, model, ComponentSpec("decoder", inputs, (TensorSpec("y", "sample", "float32", (BATCH, *out)),)), ONE_SHOT)


def _normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> np.ndarray:
    # Channels of very different size: what one scale a channel is for.
    channels = np.exp(rng.normal(0, 1, (shape[0],) + (1,) * (len(shape) - 1)))
    return (rng.standard_normal(shape) * scale * channels).astype(np.float32)


def conv(rng: np.random.Generator, channels: int = 3, out: int = 5) -> Net:
    nodes = [helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["y"], pads=[1, 1, 1, 1])]
    constants = {"conv.weight": _normal(rng, out, channels, 3, 3, scale=0.05), "conv.bias": _normal(rng, out, scale=0.05)}
    return decoder("conv", nodes, constants, [channels, 6, 7], [out, 6, 7])


def products(rng: np.random.Generator) -> Net:
    """Gemm with transposed weight and bias, ReLU, Gemm without, MatMul."""
    nodes = [
        helper.make_node("Gemm", ["x", "a.weight", "a.bias"], ["a"], transB=1),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Gemm", ["r", "b.weight"], ["b"]),
        helper.make_node("MatMul", ["b", "c.weight"], ["y"]),
    ]
    constants = {
        "a.weight": _normal(rng, 9, 8, scale=0.2),
        "a.bias": _normal(rng, 9, scale=0.1),
        "b.weight": _normal(rng, 9, 7, scale=0.1),
        "c.weight": _normal(rng, 7, 4, scale=0.05),
    }
    return decoder("products", nodes, constants, [8], [4])


def chain(rng: np.random.Generator) -> Net:
    """Convolution, ReLU, nearest upsampling, convolution: what a GAN's generator is made of."""
    nodes = [
        helper.make_node("Conv", ["x", "one.weight", "one.bias"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Resize", ["r", "", "factors"], ["u"], mode="nearest", nearest_mode="floor"),
        helper.make_node("Conv", ["u", "two.weight", "two.bias"], ["y"], pads=[1, 1, 1, 1]),
    ]
    constants = {
        "one.weight": _normal(rng, 6, 2, 3, 3, scale=0.1),
        "one.bias": _normal(rng, 6, scale=0.1),
        "two.weight": _normal(rng, 3, 6, 3, 3, scale=0.02),
        "two.bias": _normal(rng, 3, scale=0.01),
        "factors": np.array([1, 1, 2, 2], np.float32),
    }
    return decoder("chain", nodes, constants, [2, 4, 4], [3, 8, 8])


_exported: dict[str, Any] = {}


def unet(rng: np.random.Generator) -> Net:
    """The diffusion family's UNet, small, with attention, weights random everywhere (exported once a run)."""
    if not _exported:
        from onnx_ir import to_proto

        from aigc_edge.export.onnx import to_ir

        model = {
            "size": 8,
            "channels": 1,
            "num_classes": 3,
            "widths": [8, 16],
            "blocks": [1, 1],
            "attention": [1],
            "embedding": 16,
        }
        family = FAMILIES["diffusion"].from_config(model)
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        with torch.no_grad():
            for value in family.parameters():
                if value.ndim > 1:  # zero-initialised layers too, at the size of the others
                    value.normal_(0, value[0].numel() ** -0.5, generator=generator)
            value.mul_(0)  # the head's bias
            list(family.parameters())[-2].mul_(0.3)  # and its weight: samples that leave [-1, 1] would all be clamped alike
        (component,) = family.components()
        _exported.update(model=to_proto(to_ir(component)), spec=component.spec, module=component.module, schedule=family.schedule)
    program = build(_exported["schedule"], "heun", 2, guidance_scale=1.5)
    return Net("unet", _exported["model"], _exported["spec"], program, 3)


def unet_module() -> torch.nn.Module:
    """The module that `unet` was exported from."""
    module: torch.nn.Module = _exported["module"]
    return module


def int8_recipe(net: Net, engine: str, n: int) -> Any:
    """The int8 recipe of a network, observed on one half of `n` samples."""
    from aigc_edge.compress.formats.int8 import Int8

    format, calibration = Int8(engine=engine), net.calibration(n)
    model = format.prepare(net.model, calibration, 1)
    return format.recipe(model, format.reference(model, calibration, 1, lambda done, total: None))


NETS = {"conv": conv, "products": products, "chain": chain, "unet": unet}


@pytest.fixture(params=list(NETS))
def net(request: pytest.FixtureRequest, rng: np.random.Generator) -> Net:
    return NETS[request.param](rng)


@pytest.fixture
def make() -> dict[str, Any]:
    """The makers of networks by name, and `decoder` for networks of a test's own."""
    return NETS | {"decoder": decoder, "unet_module": unet_module, "int8_recipe": int8_recipe}


@pytest.fixture(scope="session")
def families(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, ComponentSpec, Program, int]]:
    """A network of each family (tests/compress/families.py): its ONNX file, spec, program and number of classes."""
    folder = tmp_path_factory.mktemp("families")
    return {
        "diffusion": digits(tiny_bundle),
        "gan": exported(generator(), folder, 10),
        "transformer": exported(transformer(), folder, 40),
    }
