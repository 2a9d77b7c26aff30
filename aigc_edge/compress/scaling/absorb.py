"""Divides the channels of a tensor by constants without a new operator, by scaling constants of the nodes that compute it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from aigc_edge.compress.graphs.graph import attribute, readers
from aigc_edge.compress.rounding import Floats

Array = npt.NDArray[Any]
_PASSING = ("Relu", "LeakyRelu", "Identity")  # f(x / s) = f(x) / s for s above zero


class Absorber:
    """The changed constants of one model."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.changed: dict[str, Array] = {}
        self._model = model
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._producer = {name: node for node in model.graph.node for name in node.output}
        self._readers = {name: {"".join(node.output[:1]) for node in nodes} for name, nodes in readers(model).items()}

    def value(self, name: str) -> Array:
        """The current value of the constant `name`."""
        return self.changed[name] if name in self.changed else onnx.numpy_helper.to_array(self._tensors[name])

    def divide(self, tensor: str, readers: set[str], scales: Floats, axis: int) -> bool:
        """Divide `tensor` by `scales` along `axis` (1 of images, −1 of tokens), if nodes other than `readers` do not read it.

        False, with nothing changed, when that takes an operator of its own.
        """
        changes = self._divided(tensor, readers, (1 / scales).astype(np.float32), axis)
        if changes is None:
            return False
        self.changed |= changes
        return True

    def _divided(self, tensor: str, readers: set[str], factors: Floats, axis: int) -> dict[str, Array] | None:
        node = self._producer.get(tensor)
        if node is None or not self._readers.get(tensor, set()) <= readers:
            return None
        own = {node.output[0]}
        if node.op_type in _PASSING:
            return self._divided(node.input[0], own, factors, axis)
        if node.op_type in ("Mul", "Add"):
            for place in (0, 1):
                scaled = self._along(node.input[place], own, factors, axis)
                if scaled is not None:
                    rest = {} if node.op_type == "Mul" else self._divided(node.input[1 - place], own, factors, axis)
                    return None if rest is None else rest | scaled
            return None
        return self._weighted(node, own, factors, axis)

    def _along(self, name: str, readers: set[str], factors: Floats, axis: int) -> dict[str, Array] | None:
        """A constant with one number per channel, multiplied; None for any other."""
        if name not in self._tensors or not self._readers[name] <= readers:
            return None
        value = self.value(name)
        behind = list(value.shape[1:]) if axis == 1 and value.ndim == 4 else list(value.shape)
        expected = [len(factors), 1, 1] if axis == 1 else [len(factors)]
        while axis == -1 and len(behind) > 1 and behind[0] == 1:
            behind = behind[1:]
        if behind != expected or value.dtype != np.float32:
            return None
        return {name: (value * factors.reshape(expected)).astype(np.float32)}

    def _weighted(self, node: onnx.NodeProto, own: set[str], factors: Floats, axis: int) -> dict[str, Array] | None:
        """A layer's weight and bias, or the scale and bias of a normalisation, multiplied for each output channel."""
        outputs = {"Conv": 0, "Gemm": 0 if attribute(node, "transB", 0) else -1, "MatMul": -1, "LayerNormalization": -1}
        if node.op_type not in outputs or (axis == 1) != (node.op_type == "Conv"):
            return None
        names = [name for name in node.input[1:3] if name]
        if any(name not in self._tensors or not self._readers[name] <= own for name in names):
            return None
        along = outputs[node.op_type]
        values = [self.value(name) for name in names]
        if values[0].shape[along] != len(factors) or any(value.shape != factors.shape for value in values[1:]):
            return None
        shape = [1] * values[0].ndim
        shape[along] = -1
        changes = {names[0]: (values[0] * factors.reshape(shape)).astype(np.float32)}
        return changes | {name: (value * factors).astype(np.float32) for name, value in zip(names[1:], values[1:], strict=True)}
