"""Small ONNX graphs by hand, and what holds of a graph and its two parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.export.clean import clean

WIDTH = 6


class Graph:
    """Builds a model of sample [N, 6], timestep [N] and class_labels [N] node by node."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.nodes, self.constants = rng, [], {}
        self.count = 0

    def weight(self, *shape: int) -> str:
        return self.constant(self.rng.normal(size=shape).astype(np.float32))

    def constant(self, value: Any) -> str:
        name = f"w{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def __call__(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        self.count += 1
        names = [f"v{self.count}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=f"n{self.count}", **attributes))
        return names[0] if outputs == 1 else names

    def embedding(self) -> str:
        """[N, 6] of the timestep alone."""
        column = self("Unsqueeze", "timestep", self.constant(np.array([1], np.int64)))
        return str(self("Sin", self("Gemm", column, self.weight(1, WIDTH), self.weight(WIDTH))))

    def model(self, output: str, width: int = WIDTH) -> ir.Model:
        graph = helper.make_graph(
            [*self.nodes, helper.make_node("Identity", [output], ["output"])],
            "test",
            [
                helper.make_tensor_value_info("sample", TensorProto.FLOAT, ["N", WIDTH]),
                helper.make_tensor_value_info("timestep", TensorProto.FLOAT, ["N"]),
                helper.make_tensor_value_info("class_labels", TensorProto.INT64, ["N"]),
            ],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", width])],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(proto)
        model = ir.from_proto(proto)
        clean(model)
        return model

    @staticmethod
    def names(model: ir.Model) -> list[str]:
        return [str(value.name) for value in model.graph.inputs]

    @staticmethod
    def kinds(model: ir.Model) -> list[str]:
        return [node.op_type for node in model.graph]

    @staticmethod
    def feeds(batch: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {
            "sample": rng.normal(size=(batch, WIDTH)).astype(np.float32),
            "timestep": np.full(batch, rng.normal(), np.float32),
            "class_labels": rng.integers(0, 3, batch),
        }

    @staticmethod
    def run(model: ir.Model, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        proto = ir.to_proto(model)
        onnx.checker.check_model(proto, full_check=True)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        ready = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        outputs = [value.name for value in ready.get_outputs()]
        return dict(zip(outputs, ready.run(None, {v.name: given[v.name] for v in ready.get_inputs()}), strict=True))

    def require_same(self, whole: ir.Model, denoiser: ir.Model, schedule: ir.Model) -> None:
        """The two parts give what the whole does, the constants evaluated at batch 1 as well as at once."""
        for batch in (1, 2, 5):
            given = self.feeds(batch, self.rng)
            wanted = self.run(whole, given)["output"]
            single = self.run(schedule, {"timestep": given["timestep"][:1]})
            for rows in ({k: np.repeat(v, batch, axis=0) for k, v in single.items()}, self.run(schedule, given)):
                np.testing.assert_allclose(self.run(denoiser, given | rows)["output"], wanted, rtol=2e-5, atol=2e-5)


@pytest.fixture
def graph(rng: np.random.Generator) -> Graph:
    """A fresh graph of sample [N, 6], timestep [N] and class_labels [N]."""
    return Graph(rng)


@pytest.fixture
def run_onnx() -> Any:
    """run_onnx(model, feeds) → outputs by name; feeds may hold more than the model takes."""
    return Graph.run
