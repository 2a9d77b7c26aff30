"""Changes to a third-party ONNX graph: plain float32 operators, one output, and the signature that the runtime expects."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from aigc_edge.bundle.spec import BATCH, Role
from aigc_edge.export.layout import NARROW, WIDE
from aigc_edge.sources.onnx.signature import Adaptation
from aigc_edge.sources.onnx.tensors import HALVES, graphs_of


def in_float32(model: onnx.ModelProto, kinds: tuple[int, ...]) -> onnx.ModelProto:
    """`model`, changed in place: weights, constants, casts, inputs and outputs of the element types `kinds` become float32."""

    def converted(tensor: TensorProto) -> None:
        if tensor.data_type in kinds:
            with np.errstate(over="ignore"):  # what does not fit is infinite, which is refused where it is a weight
                values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    for graph in graphs_of(model.graph):
        for tensor in graph.initializer:
            converted(tensor)
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type in kinds:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        for attribute in itertools.chain.from_iterable(node.attribute for node in graph.node):
            if attribute.type == AttributeProto.TENSOR:
                converted(attribute.t)
            elif attribute.name in ("to", "dtype", "stash_type") and attribute.i in kinds:
                attribute.i = TensorProto.FLOAT
    return model


def _renamed(graph: GraphProto, old: str, new: str) -> None:
    """Read `new` wherever `old` is read, in the bodies of control flow too."""
    for inner in graphs_of(graph):
        for node in inner.node:
            for position, name in enumerate(node.input):
                if name == old:
                    node.input[position] = new
        for value in inner.output if inner is not graph else ():
            if value.name == old:
                value.name = new


class _Names:
    """Names that no tensor and no node of a graph has."""

    def __init__(self, graph: GraphProto) -> None:
        self._taken: set[str] = set()
        for inner in graphs_of(graph):
            self._taken |= {item.name for item in (*inner.input, *inner.output, *inner.initializer, *inner.node)}
            self._taken |= {name for node in inner.node for name in (*node.input, *node.output)}

    def __call__(self, wish: str) -> str:
        candidates = itertools.chain([wish], (f"{wish}_{i}" for i in itertools.count(1)))
        name = next(name for name in candidates if name not in self._taken)
        self._taken.add(name)
        return name


class _Chain:
    """Nodes that follow each other between an input of the graph and its readers."""

    def __init__(self, graph: GraphProto, names: _Names, tensor: str) -> None:
        self.graph, self.names, self.first, self.last = graph, names, tensor, tensor
        self.nodes: list[NodeProto] = []

    def constant(self, wish: str, value: object) -> str:
        name = self.names(f"{self.first}_{wish}")
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, op: str, *others: str, wish: str, **attributes: Any) -> None:
        output = self.names(f"{self.first}_{wish}")
        self.nodes.append(helper.make_node(op, [self.last, *others], [output], name=output, **attributes))
        self.last = output


def adapted(model: onnx.ModelProto, adaptation: Adaptation) -> onnx.ModelProto:
    """`model`, changed in place to take float32 [N, ...], timesteps float32 [N] and classes int64 [N], channels first.

    Its outputs are reduced to the chosen one. Integer timesteps are rounded to the nearest.
    """
    graph, roles = model.graph, adaptation.roles
    names, nodes = _Names(graph), list[NodeProto]()
    initial = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in initial]
    sample = next(name for name, role in roles.items() if role == "sample")
    del graph.input[:]
    for value in inputs:
        chain = _Chain(graph, names, value.name)
        if value.name in adaptation.constants:
            _fix(chain, value, adaptation.constants[value.name], sample)
        else:
            _feed(chain, value, roles[value.name], value.name in adaptation.channels_last)
        if chain.last != value.name:
            _renamed(graph, value.name, chain.last)
        nodes += chain.nodes
    body, output = list(graph.node), next(value for value in graph.output if value.name == adaptation.output)
    del graph.node[:], graph.output[:]
    graph.node.extend([*nodes, *body])
    if output.type.tensor_type.elem_type != TensorProto.FLOAT or output.name in adaptation.channels_last:
        _return(graph, names, output, output.name in adaptation.channels_last)
    if output.type.tensor_type.shape.dim:
        output.type.tensor_type.shape.dim[0].dim_param = BATCH
    graph.output.append(output)
    del graph.value_info[:]  # shapes may have been recorded for the batch of the export
    return model


def _feed(chain: _Chain, value: ValueInfoProto, role: Role, channels_last: bool) -> None:
    """Declare the input as the runtime feeds it, and convert it to what the graph reads."""
    kind, dims = value.type.tensor_type.elem_type, value.type.tensor_type.shape.dim
    sizes = [size.dim_value for size in list(dims)[1:]]
    dtype = TensorProto.INT64 if role == "class" else TensorProto.FLOAT
    shape = [sizes[axis - 1] for axis in NARROW[1:]] if channels_last else sizes
    chain.graph.input.append(helper.make_tensor_value_info(value.name, dtype, [BATCH, *shape]))
    if channels_last:
        chain.add("Transpose", wish="channels_last", perm=WIDE)
    if len(dims) == 0 or (len(dims) == 1 and dims[0].dim_value == 1):  # one for the whole batch
        index = chain.constant("index", np.array(0 if len(dims) == 0 else [0], np.int64))
        chain.add("Gather", index, wish="one", axis=0)
    if kind != dtype:
        if dtype == TensorProto.FLOAT and kind not in (TensorProto.DOUBLE, *HALVES):
            chain.add("Round", wish="round")
        chain.add("Cast", wish="cast", to=kind)


def _fix(chain: _Chain, value: ValueInfoProto, number: float, sample: str) -> None:
    """Make the input a constant, for each sample of the batch where it has that dimension."""
    dims = value.type.tensor_type.shape.dim
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    sizes = [1, *(dim.dim_value or 1 for dim in list(dims)[1:])] if dims else []
    chain.last = chain.constant("value", np.full(sizes, number, dtype))
    if dims and dims[0].dim_value != 1:
        shape = _Chain(chain.graph, chain.names, sample)
        shape.add("Shape", wish="batch", start=0, end=1)
        if len(dims) > 1:
            shape.add("Concat", chain.constant("ones", np.ones(len(dims) - 1, np.int64)), wish="sizes", axis=0)
        batch, chain.nodes = shape.last, shape.nodes
        chain.add("Expand", batch, wish="rows")


def _return(graph: GraphProto, names: _Names, output: ValueInfoProto, channels_last: bool) -> None:
    """Return the output as float32, channels first."""
    inner = names(f"{output.name}_own")
    _renamed(graph, output.name, inner)
    for node in graph.node:
        node.output[:] = [inner if name == output.name else name for name in node.output]
    steps: list[tuple[str, dict[str, Any]]] = []
    if output.type.tensor_type.elem_type != TensorProto.FLOAT:
        steps.append(("Cast", {"to": TensorProto.FLOAT}))
    if channels_last:
        steps.append(("Transpose", {"perm": NARROW}))
        dims = [output.type.tensor_type.shape.dim[axis] for axis in NARROW]
        sizes = [dim.dim_value or dim.dim_param or None for dim in dims]
        output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, sizes))
    output.type.tensor_type.elem_type = TensorProto.FLOAT
    for position, (op, attributes) in enumerate(steps):
        result = output.name if position == len(steps) - 1 else names(f"{output.name}_{op.lower()}")
        graph.node.append(helper.make_node(op, [inner], [result], name=names(f"{output.name}_{op.lower()}"), **attributes))
        inner = result


def with_free_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, exported for one sample, with the batch left free where shapes of intermediate tensors fix it at 1; in place."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {n.output[0]: a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"}
    names, sample, changed = _Names(graph), graph.input[0].name, list[NodeProto]()
    batch = names("batch_size")
    positions = {"Reshape": 1, "Resize": 3, "ConstantOfShape": 0}
    for node in graph.node:
        position = positions.get(node.op_type, len(node.input))
        shape = constants.get(node.input[position]) if position < len(node.input) else None
        values = [] if shape is None else numpy_helper.to_array(shape).reshape(-1).tolist()
        computed = node.op_type == "ConstantOfShape" or node.input[0] not in constants
        if len(values) > 1 and values[0] == 1 and computed:
            chain = _Chain(graph, names, batch)
            chain.add("Concat", chain.constant("rest", np.array(values[1:], np.int64)), wish="shape", axis=0)
            node.input[position] = chain.last
            changed += chain.nodes
    body = list(graph.node)
    del graph.node[:]
    graph.node.append(helper.make_node("Shape", [sample], [batch], name=names("batch_size_node"), start=0, end=1))
    graph.node.extend([*changed, *body])
    return model


def sample_by_sample(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model`, exported for one sample, as the body of a Scan over the batch, whose weights stay outside; in place."""
    graph = model.graph
    names, body = _Names(graph), GraphProto(name=f"{graph.name}_of_one")
    inner_inputs, inner_outputs = [], []
    axis = names("batch_axis")
    graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), axis))
    prefix, suffix = list[NodeProto](), list[NodeProto]()

    def row(value: ValueInfoProto, wish: str) -> ValueInfoProto:
        sizes = [dim.dim_value or dim.dim_param or None for dim in list(value.type.tensor_type.shape.dim)[1:]]
        return helper.make_tensor_value_info(names(wish), value.type.tensor_type.elem_type, sizes)

    for value in graph.input:
        slot = row(value, f"{value.name}_row")
        inner = names(f"{value.name}_of_one")
        _renamed(graph, value.name, inner)
        prefix.append(helper.make_node("Unsqueeze", [slot.name, axis], [inner], name=inner))
        inner_inputs.append(slot)
    for value in graph.output:
        slot = row(value, f"{value.name}_row")
        inner = names(f"{value.name}_of_one")
        _renamed(graph, value.name, inner)
        for node in graph.node:
            node.output[:] = [inner if name == value.name else name for name in node.output]
        suffix.append(helper.make_node("Squeeze", [inner, axis], [slot.name], name=slot.name))
        inner_outputs.append(slot)
    body.node.extend([*prefix, *graph.node, *suffix])
    body.input.extend(inner_inputs)
    body.output.extend(inner_outputs)
    del graph.node[:]
    outer = [value.name for value in graph.input], [value.name for value in graph.output]
    graph.node.append(helper.make_node("Scan", *outer, name=names("samples"), body=body, num_scan_inputs=len(outer[0])))
    return model
