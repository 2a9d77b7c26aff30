"""bfloat16: half the size with the range of float32, for networks that overflow in half precision (GPUs from Ampere on)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.compress.calibration import Calibration
from aigc_edge.compress.formats import FORMATS, Progress, convert
from aigc_edge.compress.graph import Layer, types_and_shapes
from aigc_edge.compress.half import BFLOAT16, to_half
from aigc_edge.compress.mixture import Mixed, Recipe, compress
from aigc_edge.compress.opset import raise_opset
from aigc_edge.compress.rewrite import shell_of
from aigc_edge.compress.weights import weights_of


@FORMATS.register("bf16")
@dataclass(frozen=True)
class Bf16(Mixed):
    """Weights and arithmetic in bfloat16; normalisation, softmax and angles in float32; inputs and outputs float32."""

    name: ClassVar[str] = "bf16"
    least_sm: ClassVar[int] = 80
    engines: ClassVar[tuple[str, ...]] = ("openvino", "tensorrt")  # onnxruntime has no bfloat16 kernels on a CPU
    expected_psnr: ClassVar[float] = 30.0
    expected_size: ClassVar[float] = 0.5
    constant_bytes: ClassVar[int] = 2


class _Recipe(Recipe):
    def __init__(self, model: onnx.ModelProto) -> None:
        self.name, self.model, self.small = "bf16", raise_opset(model, 22), []  # 22 has the first bfloat16 convolution
        self.layers = weights_of(model)

    def bytes_of(self, layer: Layer) -> int:
        return layer.bytes // 2

    def build(self, layers: Sequence[Layer]) -> onnx.ModelProto:
        chosen = {layer.node for layer in layers}
        return to_half(self.model, BFLOAT16, keep={layer.node for layer in self.layers if layer.node not in chosen})

    def proven(self, model: onnx.ModelProto) -> onnx.ModelProto:
        return in_float32(model)


def in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float32 graph that computes what the bfloat16 graph `model` does: every bfloat16 tensor is rounded where it is made.

    Sums are float32 inside an operator, as they are in a GPU's tensor cores; engines that fuse operators round less often.
    """
    known = types_and_shapes(model)
    rounds = {name for name, (kind, _) in known.items() if kind == TensorProto.BFLOAT16}
    result = shell_of(model)
    del result.graph.value_info[:]
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.BFLOAT16:
            tensor = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
        result.graph.initializer.append(tensor)
    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for item in copy.attribute:
            if node.op_type == "Cast" and item.name == "to" and item.i == TensorProto.BFLOAT16:
                item.i = TensorProto.FLOAT
        rounding: list[onnx.NodeProto] = []
        for place, name in enumerate(node.output):
            if name in rounds:
                copy.output[place], stored = f"{name}_exact", f"{name}_stored"
                rounding.append(helper.make_node("Cast", [copy.output[place]], [stored], to=TensorProto.BFLOAT16))
                rounding.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
        result.graph.node.extend([copy, *rounding])
    return result


@convert.register
def _(
    format: Bf16,
    source: Path,
    out: Path,
    calibration: Calibration | None = None,
    *,
    progress: Progress | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    return compress(format, lambda model, _: _Recipe(model), source, out, calibration, progress, threads)
