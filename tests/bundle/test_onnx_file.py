"""ONNX files read and written without the package onnx, which the tests compare with."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.bundle.onnx_file import INT8, SMALL, OnnxFile, OnnxNode


def _model(rng: np.random.Generator) -> onnx.ModelProto:
    """A network with constants of several types, one of them in typed fields, and a body that reads one from outside."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Mul", ["captured", "captured"], ["inner"])], "body", [], [value("inner", TensorProto.FLOAT, [3])]
    )
    nodes = [
        helper.make_node("Gemm", ["x", "w", "bias_"], ["g"], alpha=0.5, transB=1, name="gemm"),
        helper.make_node("If", ["condition"], ["branch"], then_branch=body, else_branch=body),
        helper.make_node("Identity", ["unread"], ["dead"]),
        helper.make_node("Add", ["g", "branch"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(rng.standard_normal((3, 400)).astype(np.float32), "w"),
        helper.make_tensor("bias_", TensorProto.FLOAT, [3], rng.standard_normal(3).tolist()),
        numpy_helper.from_array(np.array(rng.random() < 0.5), "condition"),
        numpy_helper.from_array(rng.standard_normal(3).astype(np.float32), "captured"),
        numpy_helper.from_array(rng.integers(-8, 8, (5, 7)).astype(ml_dtypes.int4), "unread"),
    ]
    inputs, outputs = [value("x", TensorProto.FLOAT, ["N", 400])], [value("y", TensorProto.FLOAT, ["N", 3])]
    graph = helper.make_graph(nodes, "net", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10, producer_name="test")
    helper.set_model_props(model, {"key": "value"})
    return model


def test_what_is_not_changed_stays(rng: np.random.Generator, tmp_path: Path) -> None:
    model = _model(rng)
    data = model.SerializeToString()
    network = OnnxFile(data)
    assert onnx.load_from_string(network.serialised()) == model
    network.write(tmp_path / "net.onnx", tmp_path / "net.data", "net.data")
    written = onnx.load(tmp_path / "net.onnx", load_external_data=False)
    assert [tensor.name for tensor in written.graph.initializer if tensor.external_data] == ["w"]
    again = OnnxFile(str(tmp_path / "net.onnx"))
    inside = onnx.load_from_string(again.serialised())
    assert inside.graph.node == model.graph.node
    for tensor, original in zip(inside.graph.initializer, model.graph.initializer, strict=True):
        assert not tensor.external_data
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), numpy_helper.to_array(original))
    assert len(again.tensors["w"].array().tobytes()) >= SMALL


def test_values_and_attributes(rng: np.random.Generator) -> None:
    model = _model(rng)
    network = OnnxFile(model.SerializeToString())
    gemm, branch = network.nodes[:2]
    assert (gemm.op, gemm.inputs, gemm.outputs, gemm.domain) == ("Gemm", ("x", "w", "bias_"), ("g",), "")
    assert (dict(gemm.integers), dict(gemm.floats)) == ({"transB": 1}, {"alpha": 0.5})
    assert branch.has_bodies
    for name in ("w", "captured", "unread"):
        constant = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        np.testing.assert_array_equal(network.tensors[name].array(), numpy_helper.to_array(constant).astype(np.float32))
    with pytest.raises(ValueError, match="bias_ has no bytes"):
        network.tensors["bias_"].array()
    assert network.results() == {"y"}
    assert {node.op for node in network.readers()["captured"]} == {"If"}


def test_what_nothing_reads_is_dropped_and_what_is_added_is_written(rng: np.random.Generator) -> None:
    network = OnnxFile(_model(rng).SerializeToString())
    values = rng.integers(-128, 128, (4, 3)).astype(np.int8)
    network.add("more", INT8, (4, 3), lambda: values)
    network.add("unused", INT8, (4, 3), lambda: values)
    network.nodes.append(OnnxNode("Cast", ("more",), ("cast",), "", {"to": TensorProto.FLOAT}))
    network.nodes.append(OnnxNode("Special", ("cast",), ("y2",), "com.microsoft", {"K": 300}))
    network.nodes[3] = OnnxNode("Add", ("y2", "branch"), ("y",))
    network.need("com.microsoft", 1)
    network.drop_unread()
    model = onnx.load_from_string(network.serialised())
    assert sorted(node.op_type for node in model.graph.node) == ["Add", "Cast", "If", "Special"]
    assert {tensor.name for tensor in model.graph.initializer} == {"condition", "captured", "more"}
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[-1]), values)
    special = next(node for node in model.graph.node if node.op_type == "Special")
    assert (special.domain, helper.get_attribute_value(special.attribute[0])) == ("com.microsoft", 300)
    assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", 21), ("com.microsoft", 1)}


def test_damaged_files_are_no_networks(rng: np.random.Generator, tmp_path: Path) -> None:
    data = _model(rng).SerializeToString()
    with pytest.raises((ValueError, IndexError)):
        OnnxFile(data[:-5])
    OnnxFile(data).write(tmp_path / "net.onnx", tmp_path / "net.data", "net.data")
    (tmp_path / "net.data").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"net\.data was cut off"):
        OnnxFile(str(tmp_path / "net.onnx"))
    with pytest.raises(ValueError, match="not beside it"):
        OnnxFile((tmp_path / "net.onnx").read_bytes())


def test_a_constant_of_another_length_is_refused(rng: np.random.Generator) -> None:
    model = _model(rng)
    for tensor in model.graph.initializer:
        if tensor.name == "unread":
            tensor.raw_data = tensor.raw_data[:-1]
    with pytest.raises(ValueError, match="unread has 17 bytes for 35 values"):
        OnnxFile(model.SerializeToString())


@pytest.mark.parametrize(("offset", "length"), [("-40", "40"), ("-1", None), ("8", "-4"), ("x", "4"), ("0", str(2**70))])
def test_weights_lie_inside_their_file(rng: np.random.Generator, tmp_path: Path, offset: str, length: str | None) -> None:
    OnnxFile(_model(rng).SerializeToString()).write(tmp_path / "net.onnx", tmp_path / "net.data", "net.data")
    model = onnx.load(tmp_path / "net.onnx", load_external_data=False)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.external_data)
    place = {"location": "net.data", "offset": offset} | ({} if length is None else {"length": length})
    del tensor.external_data[:]
    for key, value in place.items():
        tensor.external_data.add(key=key, value=value)
    del tensor.dims[:]
    tensor.dims.append(10)  # what 40 bytes hold
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError):
        OnnxFile(str(tmp_path / "net.onnx"))


@pytest.mark.parametrize(("dims", "bytes_"), [((2**32, 2**32), 0), ((-1, -1), 1), ((0, -1), 0), ((-(2**63),), 0)])
def test_sizes_that_overflow_are_refused(rng: np.random.Generator, dims: tuple[int, ...], bytes_: int) -> None:
    """Their product modulo 2^64 is the number of bytes."""
    model = _model(rng)
    for tensor in model.graph.initializer:
        if tensor.name == "captured":
            tensor.CopyFrom(TensorProto(name="captured", data_type=TensorProto.INT8, dims=dims, raw_data=bytes(bytes_)))
    with pytest.raises(ValueError, match="captured has"):
        OnnxFile(model.SerializeToString())


def test_attributes_whose_zero_is_left_out() -> None:
    """As writers of proto3 do; the default of the operator is another value."""
    node = helper.make_node("Gemm", ["x", "w"], ["y"])
    node.attribute.add(name="alpha", type=onnx.AttributeProto.FLOAT)
    node.attribute.add(name="axis", type=onnx.AttributeProto.INT)
    model = helper.make_model(helper.make_graph([node], "net", [], []))
    (read,) = OnnxFile(model.SerializeToString()).nodes
    assert (dict(read.integers), dict(read.floats)) == ({"axis": 0}, {"alpha": 0.0})
