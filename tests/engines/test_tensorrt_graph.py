"""What a network asks of TensorRT, from graphs that are written by hand; and files that are refused before anything is built."""

from __future__ import annotations

import numpy as np
import pytest

from aigc_edge.engines.plans.graph import RequestedLayer, check_model
from aigc_edge.errors import AigcEdgeError

onnx = pytest.importorskip("onnx")
ml_dtypes = pytest.importorskip("ml_dtypes")
C = 32
STORED = {
    "int8": np.int8,
    "int8w": np.int8,
    "fp8": ml_dtypes.float8_e4m3fn,
    "fp8w": ml_dtypes.float8_e4m3fn,
    "int4": ml_dtypes.int4,
    "nvfp4": ml_dtypes.float4_e2m1fn,
}
FLOATS = {"fp32": (np.float32, 1), "fp16": (np.float16, 10), "bf16": (ml_dtypes.bfloat16, 16)}


class Graph:
    """Nodes and constants under made-up names, saved as a model."""

    def __init__(self, around="fp32"):
        self.around, self.nodes, self.constants = around, [], []

    def constant(self, value):
        self.constants.append(onnx.numpy_helper.from_array(np.asarray(value), f"c{len(self.constants)}"))
        return self.constants[-1].name

    def node(self, kind, *inputs, **attributes):
        self.nodes.append(onnx.helper.make_node(kind, list(inputs), [f"t{len(self.nodes)}"], **attributes))
        return self.nodes[-1].output[0]

    def scale(self, *shape):
        return self.constant(np.full(shape, 0.05, FLOATS[self.around][0]))

    def weight(self, format, *shape):
        """A weight as the format stores it, dequantised to the float type around."""
        if format in FLOATS:
            return self.constant(np.ones(shape, FLOATS[format][0]))
        kept = self.constant(np.ones(shape, np.float32).astype(STORED[format]))
        if format in ("int4", "nvfp4"):
            return self.node("DequantizeLinear", kept, self.scale(shape[0] // 16, *shape[1:]), axis=0, block_size=16)
        return self.node("DequantizeLinear", kept, self.scale())

    def quantised(self, x, format):
        scale, zero = self.scale(), self.constant(np.zeros((), STORED[format]))
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, scale, zero), scale, zero)

    def save(self, path, output, shape=("N", C), opset=23, **changes):
        helper = onnx.helper
        self.nodes.append(helper.make_node("Cast", [output], ["output"], to=1))
        values = [helper.make_tensor_value_info(name, 1, list(shape)) for name in ("sample", "output")]
        graph = helper.make_graph(self.nodes, "net", values[:1], values[1:], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=11)
        onnx.save(model, str(path), **changes)
        return path


@pytest.mark.parametrize("around", FLOATS)
@pytest.mark.parametrize("format", [None, *STORED])
def test_the_format_of_a_product_is_read_from_the_graph(tmp_path, format, around):
    graph, name = Graph(around), format or around
    x = graph.node("Cast", "sample", to=FLOATS[around][1])
    x = graph.quantised(x, format) if format in ("int8", "fp8") else x
    weight = graph.node("Transpose", graph.weight(name, C, C), perm=[1, 0])
    graph.save(tmp_path / "net.onnx", graph.node("MatMul", x, weight, name="product"))
    runs = format if format in ("int8", "fp8") else around
    assert check_model(tmp_path / "net.onnx") == [RequestedLayer("product", "MatMul", name, runs, around)]


@pytest.mark.parametrize("around", ["fp32", "fp16"])
@pytest.mark.parametrize(("operator", "shape"), [("MatMul", (C, C)), ("Conv", (C, C, 1))])
def test_activations_in_four_bits_are_seen(tmp_path, around, operator, shape):
    graph = Graph("fp32")  # scales that a network computes
    x = graph.node("Cast", "sample", to=FLOATS["fp32"][1])
    scale = graph.node("Mul", graph.node("ReduceMax", graph.node("Reshape", x, graph.constant([0, C // 16, 16])), keepdims=0), x)
    codes = graph.node("QuantizeLinear", x, scale, axis=-1, block_size=16, output_dtype=23)
    x = graph.node("Cast", graph.node("DequantizeLinear", codes, scale, axis=-1, block_size=16), to=FLOATS[around][1])
    weight = graph.node("Cast", graph.weight("nvfp4", *shape), to=FLOATS[around][1])
    graph.save(tmp_path / "net.onnx", graph.node(operator, x, weight, name="product"))
    assert check_model(tmp_path / "net.onnx") == [RequestedLayer("product", operator, "w4a4", "fp4", around)]


def test_products_within_and_without_names_are_found(tmp_path):
    graph = Graph("fp16")
    x = graph.node("Cast", "sample", to=10)
    left = graph.node("Softmax", graph.node("Mul", x, x), axis=-1)
    scores = graph.node("MatMul", left, graph.weight("fp16", C, C))
    graph.save(tmp_path / "net.onnx", graph.node("Gemm", scores, graph.weight("int8w", C, C), name="last"))
    first, last = check_model(tmp_path / "net.onnx")
    assert first == RequestedLayer(f"node_of_{scores}", "MatMul", "fp16", "fp16", "fp16")
    assert last == RequestedLayer("last", "Gemm", "int8w", "fp16", "fp16")


def _refused(path, refusal, shapes=None):
    with pytest.raises(AigcEdgeError) as error:
        check_model(path, shapes)
    return refusal(error.value)


@pytest.fixture
def plain(tmp_path):
    def make(**changes):
        graph = Graph()
        return graph.save(tmp_path / "net.onnx", graph.node("MatMul", "sample", graph.weight("fp32", C, C)), **changes)

    return make


def test_weights_beside_the_file(plain, refusal):
    path = plain(save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    data = path.with_name("net.onnx.data")
    data.with_name("step").hardlink_to(data)  # as finished steps of a compilation are
    assert len(check_model(path)) == 1
    data.write_bytes(data.read_bytes()[:-1])
    assert "net.onnx.data, weights of net.onnx, was cut off" in _refused(path, refusal)
    data.unlink()
    assert "net.onnx.data, weights of net.onnx, is missing" in _refused(path, refusal)
    model = onnx.load(str(path), load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = "../secret" if entry.key == "location" else entry.value
    path.write_bytes(model.SerializeToString())
    assert "outside its folder" in _refused(path, refusal)


def test_zero_points_that_are_not_zero(tmp_path, refusal):
    graph = Graph()
    scale, zero = graph.scale(), graph.constant(np.uint8(128))
    x = graph.node("DequantizeLinear", graph.node("QuantizeLinear", "sample", scale, zero), scale, zero)
    path = graph.save(tmp_path / "net.onnx", graph.node("MatMul", x, graph.weight("int8", C, C)))
    assert "quantises asymmetrically" in _refused(path, refusal)


def test_operators_that_are_none(tmp_path, refusal):
    graph = Graph()
    path = graph.save(tmp_path / "net.onnx", graph.node("Convolve", "sample"), opset=20)
    assert "Convolve, not in ONNX opset 20" in _refused(path, refusal)
    path.write_bytes(path.read_bytes()[:-40])
    assert "not a valid ONNX file" in _refused(path, refusal)


@pytest.mark.parametrize(
    ("given", "right"),
    [
        (((1, 8), (2, 16), (4, 32)), True),
        (((1, 8), (2, 64), (4, 32)), False),  # TensorRT would take it
        (((2, 8), (1, 8), (4, 8)), False),
        (((0, 8), (1, 8), (4, 8)), False),
        (((1,), (2,), (4,)), False),
        (None, False),
    ],
)
def test_dynamic_sizes_need_a_range_in_order(plain, refusal, given, right):
    path = plain(shape=("N", "L"))
    shapes = None if given is None else {"sample": given}
    if right:
        assert len(check_model(path, shapes)) == 1
    else:
        assert "sample" in _refused(path, refusal, shapes)


def test_what_is_fixed_stays_fixed(plain, refusal):
    assert "static dimensions keep their size" in _refused(plain(), refusal, {"sample": ((1, C), (1, C), (1, 2 * C))})
