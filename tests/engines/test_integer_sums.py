"""Sums of products of bytes are exact in int8 files with onnxruntime, also on CPUs whose fast kernels saturate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from aigc_edge.engines import onnxruntime
from aigc_edge.engines.onnxruntime import open_session

INPUTS, OUTPUTS = 64, 16
SHAPES: dict[str, list[Any]] = {"Conv": ["N", INPUTS, 4, 4], "MatMul": ["N", 8, INPUTS], "Gemm": ["N", INPUTS]}


def extreme(kind: str, dtype: type[np.integer[Any]]) -> bytes:
    """One layer whose weights are the largest of int8: two products of bytes exceed 16 bits."""
    weight = np.full((INPUTS, OUTPUTS) if kind == "MatMul" else (OUTPUTS, INPUTS), 127, np.int8)
    weight[..., ::2] *= -1 if kind == "MatMul" else 1
    weight = weight[:, :, None, None] if kind == "Conv" else weight
    axis = 1 if kind == "MatMul" else 0
    constants = {"s": np.float32(1), "z": np.array(0, dtype), "w": weight, "ws": np.ones(OUTPUTS, np.float32)}
    constants |= {"wz": np.zeros(OUTPUTS, np.int8), "ys": np.float32(2**15), "yz": np.array(128, np.uint8)}
    node = helper.make_node
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["xq"]), node("DequantizeLinear", ["xq", "s", "z"], ["xd"])]
    nodes += [node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=axis)]
    nodes += [node(kind, ["xd", "wd"], ["sum"], **({"transB": 1} if kind == "Gemm" else {}))]
    nodes += [node("QuantizeLinear", ["sum", "ys", "yz"], ["yq"]), node("DequantizeLinear", ["yq", "ys", "yz"], ["y"])]
    values = [helper.make_tensor_value_info("x", 1, SHAPES[kind]), helper.make_tensor_value_info("y", 1, None)]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "sums", values[:1], values[1:], tensors)
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString())


@pytest.mark.parametrize("kind", list(SHAPES))
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_int8_files_do_not_saturate(kind: str, dtype: type[np.integer[Any]], rng: np.random.Generator) -> None:
    model, info = extreme(kind, dtype), np.iinfo(dtype)
    sample = rng.choice([info.max, info.max, info.max - 1], size=[3, *map(int, SHAPES[kind][1:])]).astype(np.float32)
    whole, small = (open_session(model, 1, what="sums", format=format).run(None, {"x": sample})[0] for format in ("fp32", "int8"))
    assert np.abs(whole).max() > 2**16
    assert np.array_equal(small, whole)


def test_a_cpu_without_vnni_gets_the_exact_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime as library

    entries: list[str] = []

    def session(model: Any, options: Any, **_: Any) -> object:
        try:
            entries.append(options.get_session_config_entry("session.x64quantprecision"))
        except RuntimeError:  # not set
            entries.append("")
        return object()

    monkeypatch.setattr(library, "InferenceSession", session)
    for vnni in (True, False):
        monkeypatch.setattr(onnxruntime, "has_vnni", lambda vnni=vnni: vnni)
        open_session(b"", 1, what="sums", format="int8")
    assert entries == ["", "1"]
