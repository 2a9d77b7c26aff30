"""ONNX files whose weights are not initialisers, or that cannot be compiled for what their operators are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.errors import AigcEdgeError
from aigc_edge.sources.base import SourceOptions, open_source

N = helper.make_node
DECODER = SourceOptions(role="decoder")


def write(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> Path:
    """A decoder from z [N, 3, 4, 4] to y [N, 3, 4, 4]."""
    z, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 3, 4, 4]) for name in "zy")
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "decoder", [z], [y], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def run(path: Path, z: np.ndarray) -> np.ndarray:
    result: np.ndarray = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"z": z})[0]
    return result


@pytest.mark.parametrize("form", ["constant", "channels last", "in the branches"])
def test_weights_become_initialisers(rng: np.random.Generator, tmp_path: Path, form: str) -> None:
    weight = rng.standard_normal((3, 3, 3, 3)).astype(np.float32)

    def branch(name: str, value: np.ndarray) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, ["b", 3, 4, 4])
        stored = N("Constant", [], [f"{name}_w"], value=numpy_helper.from_array(value))
        return helper.make_graph([stored, N("Conv", ["z", f"{name}_w"], [f"{name}_y"], pads=[1] * 4)], name, [], [out])

    conv = N("Conv", ["z", "w"], ["y"], pads=[1] * 4)
    last = numpy_helper.from_array(np.ascontiguousarray(weight.transpose(2, 3, 1, 0)))  # as TensorFlow stores it
    total, chosen = N("ReduceSum", ["z"], ["sum"], keepdims=0), N("Greater", ["sum", "lowest"], ["chosen"])
    nodes = {
        "constant": [N("Constant", [], ["w"], value=numpy_helper.from_array(weight)), conv],
        "channels last": [N("Constant", [], ["k"], value=last), N("Transpose", ["k"], ["w"], perm=[3, 2, 0, 1]), conv],
        "in the branches": [
            total,
            chosen,
            N("If", ["chosen"], ["y"], then_branch=branch("then", weight), else_branch=branch("else", -weight)),
        ],
    }[form]
    path = write(tmp_path / "in.onnx", nodes, {"lowest": np.float32(-1e9)})
    (part,) = open_source(str(path), DECODER).components()
    part.write(tmp_path / "out.onnx")
    tensors = onnx.load(tmp_path / "out.onnx").graph.initializer
    assert [list(tensor.dims) for tensor in tensors if len(tensor.dims) == 4] == [[3] * 4] * (2 if "branches" in form else 1)
    z = rng.standard_normal((2, 3, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path / "out.onnx", z), run(path, z), rtol=1e-5, atol=1e-5)


def test_weights_in_integers_become_floats(rng: np.random.Generator, tmp_path: Path) -> None:
    codes = rng.integers(-127, 128, (3, 3, 1, 1)).astype(np.int8)
    scale = (np.abs(rng.standard_normal(3)) / 100).astype(np.float32)
    nodes = [N("DequantizeLinear", ["codes", "scale"], ["w"], axis=0), N("Conv", ["z", "w"], ["y"])]
    (part,) = open_source(str(write(tmp_path / "in.onnx", nodes, {"codes": codes, "scale": scale})), DECODER).components()
    part.write(tmp_path / "out.onnx")
    (weight,) = onnx.load(tmp_path / "out.onnx").graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(weight), codes.astype(np.float32) * scale[:, None, None, None])


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (
            [N("QuantizeLinear", ["z", "s", "o"], ["q"]), N("DequantizeLinear", ["q", "s", "o"], ["y"])],
            r"in.onnx is quantised already \(DequantizeLinear, QuantizeLinear\): compile the float32 network",
        ),
        (
            [N("RandomNormalLike", ["z"], ["r"]), N("Add", ["z", "r"], ["y"])],
            r"in.onnx draws random numbers \(RandomNormalLike\)",
        ),
        ([N("Dropout", ["z", "half", "on"], ["y"])], r"in.onnx draws random numbers \(Dropout\): make them an input"),
    ],
)
def test_what_is_refused_by_name(tmp_path: Path, nodes: list[onnx.NodeProto], message: str) -> None:
    constants = {"s": np.float32(0.1), "o": np.uint8(128), "half": np.float32(0.5), "on": np.array(True)}
    file = str(write(tmp_path / "in.onnx", nodes, constants))
    with pytest.raises(AigcEdgeError, match=message):  # when it is opened, where the message itself shows it
        open_source(file, DECODER).components()[0].write(tmp_path / "out.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["in.onnx"]
