"""The plan of an ONNX file surveys the network that `compile` makes of it: constants folded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.preflight import onnx_survey
from aigc_edge.preflight.plan import survey_source
from aigc_edge.sources.base import SourceOptions, open_source

N = helper.make_node


@pytest.mark.parametrize("external", [False, True])
def test_an_onnx_file_is_surveyed_as_it_is_compiled(tmp_path: Path, rng: np.random.Generator, external: bool) -> None:
    """Weights behind Transpose and DequantizeLinear, of weight normalisation, in a Constant node and of an adapter."""

    def normal(*shape: int) -> np.ndarray:
        return np.asarray(rng.standard_normal(shape), np.float32)

    constants = {
        "t": normal(3, 3, 3, 32),
        "codes": rng.integers(-99, 99, (32, 32, 3, 3)).astype(np.int8),
        "scale": np.abs(normal(32)),
        "v": normal(32, 32, 3, 3),
        "g": normal(32, 1, 1, 1),
        "down": normal(4, 32, 1, 1),
        "up": normal(3, 4, 1, 1),
    }
    nodes = [
        N("Transpose", ["t"], ["w1"], perm=[3, 2, 0, 1]),
        N("Conv", ["x", "w1"], ["a"], pads=[1] * 4),
        N("DequantizeLinear", ["codes", "scale"], ["w2"], axis=0),
        N("Conv", ["a", "w2"], ["b"], pads=[1] * 4),
        N("Mul", ["v", "g"], ["w3"]),
        N("Conv", ["b", "w3"], ["c"], pads=[1] * 4),
        N("Constant", [], ["w4"], value=numpy_helper.from_array(normal(3, 32, 1, 1))),
        N("Conv", ["c", "w4"], ["d"]),
        N("Conv", ["c", "down"], ["e"]),
        N("Conv", ["e", "up"], ["f"]),
        N("Add", ["d", "f"], ["z"]),
        N("Tanh", ["z"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 8, 8]) for name in "xy")
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], tensors), opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    onnx.save(model, tmp_path / "in.onnx", save_as_external_data=external, location="in.data", size_threshold=0)
    source = open_source(str(tmp_path / "in.onnx"), SourceOptions(role="decoder"))
    (part,) = source.components()
    (found,) = survey_source(source)
    part.write(tmp_path / "out.onnx")
    compiled = onnx_survey.survey("decoder", onnx.load(tmp_path / "out.onnx"))
    assert found == compiled
    assert sum(weight.elements for weight in found.weights) == 32 * 27 + 2 * 32 * 288 + 3 * 32
    assert (tmp_path / "in.onnx").exists()
