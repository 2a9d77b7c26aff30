"""Each operator alone against onnxruntime, in the variants that differ; gradients of rounding against their definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from aigc_edge.compress.trainable.network import Trainable
from aigc_edge.errors import AigcEdgeError

I64 = np.int64


def values(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def single(op: str, inputs: list[np.ndarray | None], outputs: int = 1, opset: int = 20, **attributes: Any) -> onnx.ModelProto:
    """One node whose first input is the graph's, the others constants."""
    names = ["" if value is None else f"i{index}" for index, value in enumerate(inputs)]
    node = helper.make_node(op, names, [f"o{index}" for index in range(outputs)], **attributes)
    constants = [
        onnx.numpy_helper.from_array(value, names[index]) for index, value in enumerate(inputs) if index and value is not None
    ]
    first = helper.make_tensor_value_info(names[0], helper.np_dtype_to_tensor_dtype(inputs[0].dtype), inputs[0].shape)
    ends = [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = helper.make_graph([node], op, [first], ends, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


# op, shapes of float inputs or the values of others, attributes, number of outputs
CASES: list[tuple[str, list[Any], dict[str, Any], int]] = [
    ("Conv", [(2, 4, 7, 6), (6, 2, 3, 3), (6,)], {"group": 2, "pads": [1, 0, 2, 1], "strides": [2, 1], "dilations": [1, 2]}, 1),
    ("Conv", [(2, 3, 9), (5, 3, 3)], {"pads": [1, 1]}, 1),
    ("ConvTranspose", [(2, 3, 5, 4), (3, 4, 4, 4), (4,)], {"pads": [1, 1, 1, 1], "strides": [2, 2]}, 1),
    (
        "ConvTranspose",
        [(2, 4, 5, 4), (4, 2, 3, 3)],
        {"group": 2, "strides": [2, 2], "pads": [0, 1, 1, 0], "output_padding": [1, 1]},
        1,
    ),
    ("Gemm", [(5, 3), (4, 5), (4,)], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}, 1),
    ("MatMul", [(2, 3, 4), (4, 5)], {}, 1),
    ("Einsum", [(2, 3, 4)], {"equation": "abc->acb"}, 1),
    ("InstanceNormalization", [(2, 3, 8), (3,), (3,)], {"epsilon": 1e-3}, 1),
    ("GroupNormalization", [(2, 6, 5), (3,), (3,)], {"num_groups": 3}, 1),
    ("LayerNormalization", [(2, 3, 8), (3, 8), (3, 8)], {"axis": 1, "epsilon": 1e-3}, 1),
    ("BatchNormalization", [(2, 3, 4, 4), (3,), (3,), (3,), np.array([0.5, 1, 2], np.float32)], {}, 1),
    ("Softmax", [(2, 3, 8)], {"axis": 1}, 1),
    ("LogSoftmax", [(2, 3, 8)], {}, 1),
    ("ReduceMean", [(2, 3, 8), np.array([-1, 1])], {"keepdims": 0}, 1),
    ("ReduceSum", [(2, 3, 8)], {}, 1),
    ("ReduceMax", [(2, 3, 8), np.array([2])], {}, 1),
    ("ReduceL2", [(2, 3, 8), np.array([1])], {}, 1),
    ("GlobalAveragePool", [(2, 3, 4, 5)], {}, 1),
    ("AveragePool", [(2, 3, 6, 6)], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, 1),
    ("MaxPool", [(2, 3, 6, 6)], {"kernel_shape": [2, 2], "strides": [2, 2]}, 1),
    ("Reshape", [(2, 6, 4), np.array([0, 3, -1])], {}, 1),
    ("Flatten", [(2, 3, 4)], {"axis": 2}, 1),
    ("Transpose", [(2, 3, 4)], {"perm": [1, 2, 0]}, 1),
    ("Transpose", [(2, 3, 4)], {}, 1),
    ("Unsqueeze", [(2, 3), np.array([0, -1])], {}, 1),
    ("Squeeze", [(2, 1, 3, 1), np.array([-1, 1])], {}, 1),
    ("Concat", [(2, 3), (2, 4)], {"axis": -1}, 1),
    ("Split", [(2, 7)], {"axis": 1, "num_outputs": 2}, 2),
    ("Split", [(2, 7), np.array([1, 4, 2])], {"axis": 1}, 3),
    ("Slice", [(5, 6), np.array([-1, 1]), np.array([-(2**62), 2**62]), np.array([0, -1]), np.array([-2, 2])], {}, 1),
    ("Gather", [(5, 6), np.array([[0, -1], [2, 3]])], {"axis": 1}, 1),
    ("GatherElements", [(3, 4), np.array([[0, -1, 2, 1]])], {"axis": 0}, 1),
    ("Expand", [(3, 1), np.array([2, 1, 4])], {}, 1),
    ("Tile", [(3, 2), np.array([2, 3])], {}, 1),
    ("Shape", [(3, 2, 5)], {"start": 1, "end": -1}, 1),
    ("Pad", [(1, 2, 5, 4), np.array([0, 0, 1, 2, 0, 0, 0, 1])], {"mode": "reflect"}, 1),
    ("Pad", [(2, 5), np.array([1, -1]), np.array(0.5, np.float32), np.array([-1])], {}, 1),
    ("DepthToSpace", [(2, 8, 3, 4)], {"blocksize": 2}, 1),
    ("DepthToSpace", [(2, 8, 3, 4)], {"blocksize": 2, "mode": "CRD"}, 1),
    ("SpaceToDepth", [(2, 3, 4, 6)], {"blocksize": 2}, 1),
    ("Resize", [(1, 2, 4, 5), None, np.array([1, 1, 2, 2], np.float32)], {"nearest_mode": "floor"}, 1),
    ("Resize", [(1, 2, 5, 7), None, None, np.array([1, 2, 3, 11])], {}, 1),
    ("Resize", [(1, 2, 5, 7), None, None, np.array([1, 2, 9, 4])], {"mode": "linear"}, 1),
    (
        "Resize",
        [(1, 2, 5, 7), None, np.array([1, 1, 2, 0.6], np.float32)],
        {"mode": "linear", "coordinate_transformation_mode": "asymmetric"},
        1,
    ),
    (
        "Resize",
        [(1, 2, 5, 7), None, None, np.array([1, 2, 9, 4])],
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        1,
    ),
    ("Clip", [(3, 4), np.array(-0.5, np.float32), np.array(0.5, np.float32)], {}, 1),
    ("LeakyRelu", [(3, 4)], {"alpha": 0.2}, 1),
    ("PRelu", [(3, 4), (4,)], {}, 1),
    ("Elu", [(3, 4)], {"alpha": 0.7}, 1),
    ("Gelu", [(3, 4)], {"approximate": "tanh"}, 1),
    ("Gelu", [(3, 4)], {}, 1),
    ("HardSigmoid", [(3, 4)], {}, 1),
    ("Cast", [(3, 4)], {"to": TensorProto.INT64}, 1),
    ("Max", [(3, 4), (4,)], {}, 1),
    ("Sum", [(3, 4), (4,), (3, 1)], {}, 1),
    ("Pow", [(3, 4), np.array(2.0, np.float32)], {}, 1),
    *((op, [(3, 4), (4,)], {}, 1) for op in ("Add", "Sub", "Mul", "Div", "Min")),
    *(
        (op, [(3, 4)], {}, 1)
        for op in ("Erf", "Sigmoid", "Tanh", "Relu", "Softplus", "Cos", "Exp", "Neg", "Abs", "Mish", "Floor")
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_operator(case: tuple[str, list[Any], dict[str, Any], int], rng: np.random.Generator) -> None:
    import onnxruntime

    op, shapes, attributes, outputs = case
    inputs = [values(rng, *given) if isinstance(given, tuple) else given for given in shapes]
    model = single(op, inputs, outputs, **attributes)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"i0": inputs[0]})
    with torch.no_grad():
        made = Trainable(model)({"i0": torch.from_numpy(inputs[0])})
    assert len(made) == len(wanted) == outputs
    for a, b in zip(made, wanted, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a.numpy(), b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_quantise_and_dequantise(axis: int, rng: np.random.Generator) -> None:
    """Per channel against onnxruntime; the gradient is one inside the range and zero outside it."""
    import onnxruntime

    x = values(rng, 3, 4) * 3
    size = x.shape[axis]
    scale = rng.uniform(0.01, 0.03, size).astype(np.float32)
    zero = rng.integers(60, 190, size).astype(np.uint8)
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in (("s", scale), ("z", zero))]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=axis),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=axis),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 4]) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph(nodes, "q", ends[:1], ends[1:], constants), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = torch.from_numpy(x).requires_grad_()
    (made,) = Trainable(model)({"x": given})
    np.testing.assert_allclose(made.detach().numpy(), session.run(None, {"x": x})[0], rtol=1e-6)
    made.sum().backward()
    shape = [1, 1]
    shape[axis] = -1
    codes = x / scale.reshape(shape) + zero.astype(np.float32).reshape(shape)
    inside = ((codes > 0) & (codes < 255)).astype(np.float32)
    assert given.grad is not None
    assert 0 < inside.mean() < 1
    np.testing.assert_allclose(given.grad.numpy(), inside, rtol=1e-6)


def test_what_is_not_known_is_named(rng: np.random.Generator) -> None:
    with pytest.raises(AigcEdgeError, match="uses Hardmax, which cannot be trained"):
        Trainable(single("Hardmax", [values(rng, 2, 3)]))
    model = single("Conv", [values(rng, 1, 2, 5, 5), values(rng, 3, 2, 3, 3)], auto_pad="SAME_UPPER")
    with pytest.raises(AigcEdgeError, match="Conv 'o0' uses auto_pad=SAME_UPPER"):
        Trainable(model)({"i0": torch.zeros(1, 2, 5, 5)})
