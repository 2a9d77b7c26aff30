"""One small network in three forms: NumPy (the exact answer), ONNX and torch (in a family of its own)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_edge.bundle.component import Component, Weights
from aigc_edge.bundle.spec import BATCH, ComponentSpec, TensorSpec
from aigc_edge.bundle.storage import Files
from aigc_edge.engines.base import EngineSource

CHANNELS, SIZE, CLASSES = 3, 8, 5
SHAPE = (BATCH, CHANNELS, SIZE, SIZE)
SPEC = ComponentSpec(
    "denoiser",
    (
        TensorSpec("sample", "sample", "float32", SHAPE),
        TensorSpec("timestep", "timestep", "float32", (BATCH,)),
        TensorSpec("class_labels", "class", "int64", (BATCH,)),
    ),
    (TensorSpec("output", "sample", "float32", SHAPE),),
)
FAMILY = "family-of-engine-tests"


@dataclass
class Network:
    """output = conv3x3(sample) * timestep + embedding[class]."""

    weight: np.ndarray  # [C, C, 3, 3]
    embedding: np.ndarray  # [K, C]
    folder: Path

    def source(self, format: str = "fp32") -> EngineSource:
        files = {"fp32": {"file": "net.onnx"}, "broken": {"file": "broken.onnx"}, "gone": {"file": "gone.onnx"}}
        component = Component(SPEC, files, weights=Weights("net.safetensors", {}))
        return EngineSource(Files(self.folder), component, format, FAMILY)

    def inputs(self, batch: int, seed: int) -> dict[str, np.ndarray]:
        random = np.random.default_rng(seed)
        return {
            "sample": random.normal(size=(batch, *SHAPE[1:])).astype(np.float32),
            "timestep": random.normal(size=batch).astype(np.float32),
            "class_labels": random.integers(0, CLASSES, batch),
        }

    def answer(self, inputs: dict[str, np.ndarray], dtype: Any = np.float64) -> np.ndarray:
        sample = np.pad(inputs["sample"].astype(dtype), ((0, 0), (0, 0), (1, 1), (1, 1)))
        total = np.zeros((len(sample), *SHAPE[1:]), dtype)
        for i in range(3):
            for j in range(3):
                view = sample[:, :, i : i + SIZE, j : j + SIZE]
                total += np.einsum("oc,nchw->nohw", self.weight[:, :, i, j].astype(dtype), view)
        shift = self.embedding.astype(dtype)[inputs["class_labels"]]
        return total * inputs["timestep"].astype(dtype)[:, None, None, None] + shift[:, :, None, None]

    def allowed(self, inputs: dict[str, np.ndarray]) -> float:
        """Twice the largest error that float32 itself makes, and four units in the last place."""
        exact = self.answer(inputs)
        error = np.abs(self.answer(inputs, np.float32) - exact).max()
        return float(2 * error + 4 * np.finfo(np.float32).eps * np.abs(exact).max())


@pytest.fixture
def network(tmp_path: Path, request: pytest.FixtureRequest, rng: np.random.Generator) -> Network:
    """The network with fresh random weights, as ONNX and safetensors in a folder."""
    onnx = pytest.importorskip("onnx")
    weight = rng.normal(size=(CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
    embedding = rng.normal(size=(CLASSES, CHANNELS)).astype(np.float32)
    helper, constants = onnx.helper, []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(onnx.numpy_helper.from_array(value, name))
        return name

    nodes = [
        helper.make_node("Conv", ["sample", constant("weight", weight)], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("Unsqueeze", ["timestep", constant("axes", np.array([1, 2, 3]))], ["t"]),
        helper.make_node("Mul", ["y", "t"], ["scaled"]),
        helper.make_node("Gather", [constant("embedding", embedding), "class_labels"], ["e"]),
        helper.make_node("Unsqueeze", ["e", constant("places", np.array([2, 3]))], ["shift"]),
        helper.make_node("Add", ["scaled", "shift"], ["output"]),
    ]
    save_onnx(tmp_path / "net.onnx", nodes, SPEC, constants)
    (tmp_path / "broken.onnx").write_bytes((tmp_path / "net.onnx").read_bytes()[:200])
    found = Network(weight, embedding, tmp_path)
    if "torch" in request.node.name:
        _write_torch(found)
    return found


def save_onnx(path: Path, nodes: list[Any], spec: ComponentSpec, constants: list[Any]) -> None:
    import onnx

    def value(tensor: TensorSpec) -> Any:
        return onnx.helper.make_tensor_value_info(tensor.name, types[tensor.dtype], list(tensor.shape))

    types = {"float32": onnx.TensorProto.FLOAT, "int64": onnx.TensorProto.INT64}
    graph = onnx.helper.make_graph(nodes, "net", [value(t) for t in spec.inputs], [value(t) for t in spec.outputs], constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _write_torch(network: Network) -> None:
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.numpy").save_file
    from aigc_edge.models.base import FAMILIES
    from aigc_edge.models.base import ModuleComponent as SourceComponent

    class Module(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
            self.embedding = torch.nn.Embedding(CLASSES, CHANNELS)

        def forward(self, sample: Any, timestep: Any, class_labels: Any) -> Any:
            return self.conv(sample) * timestep[:, None, None, None] + self.embedding(class_labels)[:, :, None, None]

    class TestFamily:
        @classmethod
        def from_config(cls, model: dict[str, Any]) -> TestFamily:
            assert json.dumps(model) == "{}"
            return cls()

        def components(self) -> list[SourceComponent]:
            return [SourceComponent(SPEC, Module(), lambda batch, generator: ())]

    if FAMILY not in FAMILIES:
        FAMILIES.register(FAMILY)(TestFamily)  # type: ignore[arg-type]
    save_file({"conv.weight": network.weight, "embedding.weight": network.embedding}, str(network.folder / "net.safetensors"))


@pytest.fixture
def refusal() -> Callable[[BaseException], str]:
    """The message of an error, which must be one line that says what to do (it holds a colon or a semicolon)."""

    def check(error: BaseException) -> str:
        text = str(error)
        assert "\n" not in text
        assert ":" in text or ";" in text, text
        return text

    return check
