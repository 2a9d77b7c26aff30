"""Embedding tables in int8: the rows that are looked up, against NumPy."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.compress.graphs.embedding_tables import with_int8_tables
from aigc_edge.compress.graphs.graph import Network


def _model(table: np.ndarray) -> onnx.ModelProto:
    values = [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", table.shape[1]]),
    ]
    nodes = [helper.make_node("Gather", ["table", "label"], ["y"])]
    graph = helper.make_graph(nodes, "table", values[:1], values[1:], [numpy_helper.from_array(table, "table")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_rows_have_scales_of_their_own(rng: np.random.Generator) -> None:
    table = (rng.standard_normal((90, 64)) * np.exp(rng.normal(0, 2, (90, 1)))).astype(np.float32)
    model = _model(table)
    made = with_int8_tables(model)
    onnx.checker.check_model(made, full_check=True)
    assert made.ByteSize() < 0.3 * model.ByteSize() + 1000
    label = rng.integers(0, 90, 20)
    scale = np.abs(table).max(1, keepdims=True) / np.float32(127)
    wanted = (np.rint(table / scale) * scale)[label]
    np.testing.assert_allclose(Network(made)({"label": label})[0], wanted, rtol=1e-6, atol=1e-7)


def test_small_tables_stay(rng: np.random.Generator) -> None:
    model = _model(rng.standard_normal((11, 32)).astype(np.float32))
    assert with_int8_tables(model) is model
