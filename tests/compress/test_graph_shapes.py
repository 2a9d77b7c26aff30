"""Every format on every form that weights have in graphs: the same share of them is in the format, at the same error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.compress.format import FORMATS, parse
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.emulation import in_float32
from aigc_edge.compress.graphs.folding import folded
from aigc_edge.config import names
from aigc_edge.export.fold import fold_constants

N = helper.make_node
WIDTH = 64
Weights = dict[str, np.ndarray]
Form = Callable[[np.ndarray], tuple[list[onnx.NodeProto], Weights]]


def plain(w: np.ndarray) -> tuple[list[onnx.NodeProto], Weights]:
    return [N("MatMul", ["a", "w"], ["b"])], {"w": w}


def constant_node(w: np.ndarray) -> tuple[list[onnx.NodeProto], Weights]:
    return [N("Constant", [], ["w"], value=numpy_helper.from_array(w)), N("MatMul", ["a", "w"], ["b"])], {}


def moved(w: np.ndarray) -> tuple[list[onnx.NodeProto], Weights]:
    nodes = [N("Reshape", ["flat", "square"], ["r"]), N("Transpose", ["r"], ["t"], perm=[1, 0]), N("Identity", ["t"], ["w"])]
    return [*nodes, N("MatMul", ["a", "w"], ["b"])], {"flat": w.T.reshape(-1), "square": np.array(w.shape)}


def weight_norm(w: np.ndarray) -> tuple[list[onnx.NodeProto], Weights]:
    nodes = [N("ReduceL2", ["v", "rows"], ["n"]), N("Div", ["v", "n"], ["u"]), N("Mul", ["u", "g"], ["w"])]
    size = np.linalg.norm(w, axis=0, keepdims=True)
    return [*nodes, N("MatMul", ["a", "w"], ["b"])], {"v": 3 * w, "g": size, "rows": np.array([0])}


def second_reader(w: np.ndarray) -> tuple[list[onnx.NodeProto], Weights]:
    """As in StyleGAN2's demodulation: another node reads the weight, before the layer does, with what is not constant."""
    first = [N("ReduceMax", ["a"], ["peak"], keepdims=0), N("Div", ["peak", "peak"], ["one"])]
    nodes = [
        *first,
        N("Mul", ["w", "one"], ["ww"]),
        N("MatMul", ["a", "w"], ["m"]),
        N("ReduceMean", ["ww", "all"], ["mean"], keepdims=0),
    ]
    return [*nodes, N("Add", ["m", "mean"], ["b"])], {"w": w, "all": np.array([0, 1])}


def tied(w: np.ndarray) -> tuple[list[onnx.NodeProto], Weights]:
    return [N("MatMul", ["a", "w"], ["m"]), N("Relu", ["m"], ["n"]), N("MatMul", ["n", "w"], ["b"])], {"w": w}


def in_body(w: np.ndarray) -> tuple[list[onnx.NodeProto], Weights]:
    """A branch, as torch.cond exports it; its weight is read in both branches, chosen by what no format rounds."""

    def branch(name: str, sign: float) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, ["N", WIDTH])
        scale = numpy_helper.from_array(np.float32(sign).reshape(()), f"{name}_sign")
        nodes = [N("MatMul", ["a", "w"], [f"{name}_m"]), N("Mul", [f"{name}_m", f"{name}_sign"], [f"{name}_out"])]
        return helper.make_graph(nodes, name, [], [out], [scale])

    nodes = [N("ReduceSum", ["x"], ["sum"], keepdims=0), N("Greater", ["sum", "zero"], ["chosen"])]
    choice = N("If", ["chosen"], ["b"], then_branch=branch("then", 1.0), else_branch=branch("else", -1.0))
    return [*nodes, choice], {"w": w, "zero": np.float32(0).reshape(())}


def in_loop(w: np.ndarray) -> tuple[list[onnx.NodeProto], Weights]:
    """Two turns of a loop whose body reads the weight behind an addition."""
    i, go, again = (helper.make_tensor_value_info(n, k, []) for n, k in (("i", 7), ("go", 9), ("again", 9)))
    h, out = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", WIDTH]) for n in ("h", "h_out"))
    nodes = [N("Identity", ["go"], ["again"]), N("MatMul", ["h", "w"], ["p"]), N("Add", ["p", "h"], ["h_out"])]
    body = helper.make_graph(nodes, "body", [i, go, h], [again, out])
    return [N("Loop", ["turns", "", "a"], ["b"], body=body)], {"w": w, "turns": np.int64(2).reshape(())}


def outside_and_in_body(w: np.ndarray) -> tuple[list[onnx.NodeProto], Weights]:
    nodes, constants = in_body(w)
    nodes[-1].output[0] = "inner"
    nodes += [N("MatMul", ["a", "w"], ["o"]), N("Add", ["o", "o"], ["outer"]), N("Add", ["inner", "outer"], ["b"])]
    return nodes, constants


_FORMS = (constant_node, moved, weight_norm, second_reader, tied, in_body, in_loop, outside_and_in_body)
FORMS: dict[str, Form] = {f.__name__: f for f in _FORMS}


def net_of(make: dict[str, Any], form: Form, weights: Weights) -> Any:
    """x → MatMul → the weight in that form → MatMul → y, imported."""
    nodes, constants = form(weights["w"])
    chain = [N("MatMul", ["x", "first"], ["a"]), *nodes, N("Relu", ["b"], ["c"]), N("MatMul", ["c", "last_w"], ["y"])]
    outer = {"first": weights["first"], "last_w": weights["last"]}
    net = make["decoder"]("net", chain, outer | constants, [WIDTH], [WIDTH])
    model = ir.from_proto(net.model)
    fold_constants(model, "net")
    net.model = ir.to_proto(model)
    return net


def converted(net: Any, text: str, folder: Path) -> onnx.ModelProto:
    format = FORMATS[text.partition(":")[0]]
    free = {k: v for k, v in (("psnr", 0.0), ("aim", 0.0), ("rank", False), ("steps", 0)) if k in names(format)}
    replace(parse(text), **free).convert(net.write(folder), folder / "out.onnx", net.calibration(8))
    model = onnx.load(folder / "out.onnx")
    onnx.checker.check_model(model, full_check=True)
    return model


def wide_floats(model: onnx.ModelProto) -> int:
    """Elements of weights in float32."""
    sizes = [np.prod(t.dims, dtype=int) for t in model.graph.initializer if t.data_type == TensorProto.FLOAT]
    return int(sum(size for size in sizes if size >= WIDTH * WIDTH // 2))


def error(net: Any, model: onnx.ModelProto, x: np.ndarray) -> float:
    wanted = graph.Network(net.model)({"x": x})[0]
    result = graph.Network(in_float32(folded(model)), exact=True)({"x": x})[0]
    return float(np.linalg.norm(result - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("text", [name for name in FORMATS if name not in ("fp32", "pruned")])
def test_weights_are_in_the_format(rng: np.random.Generator, make: dict[str, Any], text: str, form: str, tmp_path: Path) -> None:
    weights = {key: (rng.standard_normal((WIDTH, WIDTH)) / 8).astype(np.float32) for key in ("first", "w", "last")}
    x = rng.standard_normal((16, WIDTH)).astype(np.float32)
    like = net_of(make, plain, weights)
    reference, net = converted(like, text, tmp_path), net_of(make, FORMS[form], weights)
    model = converted(net, text, tmp_path)
    held = ("fp16", "bf16", "int8w", "fp8w")  # in bodies too; of the other formats the share of weights says so
    left = WIDTH**2 if form in ("in_body", "in_loop") and text not in held else 0
    assert wide_floats(model) == wide_floats(reference) + left
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    again = WIDTH**2 if (text, form) == ("int8", "tied") else 0  # onnxruntime needs integers for each layer
    assert size <= sum(len(tensor.raw_data) for tensor in reference.graph.initializer) + 4 * left + again + WIDTH**2 // 2 + 2048
    assert error(net, model, x) <= 4 * error(like, reference, x) + 1e-5


def test_pruning_leaves_what_bodies_read(rng: np.random.Generator, make: dict[str, Any], tmp_path: Path) -> None:
    weights = {key: (rng.standard_normal((WIDTH, WIDTH)) / 8).astype(np.float32) for key in ("first", "w", "last")}
    for form in ("second_reader", "in_body"):
        net = net_of(make, FORMS[form], weights)
        nodes = [N("MatMul", ["y0", "more"], ["h"]), N("Relu", ["h"], ["r"]), N("MatMul", ["r", "end"], ["y"])]
        net.model.graph.node[-1].output[0] = "y0"
        net.model.graph.node.extend(nodes)
        net.model.graph.initializer.extend(numpy_helper.from_array(weights["w"].T.copy(), name) for name in ("more", "end"))
        model = converted(net, "pruned", tmp_path)
        kept = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
        assert kept["w"] == [WIDTH, WIDTH]
        assert error(net, model, rng.standard_normal((16, WIDTH)).astype(np.float32)) < 1
