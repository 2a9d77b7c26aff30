"""Raises a model's opset for the types of its weights: int4 needs 21, bfloat16 convolutions 22, FP4 23."""

from __future__ import annotations

import onnx
from onnx import helper

from aigc_edge.errors import BudgetError

_IR = {20: 9, 21: 10, 22: 10, 23: 11, 24: 11}  # file format of each opset
_DIRECT = 18  # from here to 24 operators other than _CHANGED only accept more types
_CHANGED = ("GroupNormalization",)  # 18 has a scale a group, 21 a scale a channel


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators that `model` uses."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def raise_opset(model: onnx.ModelProto, least: int) -> onnx.ModelProto:
    """`model` with at least opset `least` (in place where nothing but the number changes).

    Raises BudgetError when an operator of the model means something else in the newer opset, or onnx cannot convert it.
    """
    if opset_of(model) < _DIRECT:
        try:
            model = onnx.version_converter.convert_version(model, 20)
        except Exception as error:  # the C++ converter's own errors, which name neither the model nor the way out
            raise BudgetError(
                f"the network has opset {opset_of(model)}, which cannot be raised to {least} ({error}): export it with opset 20"
            ) from error
    if opset_of(model) < least:
        changed = sorted({node.op_type for node in model.graph.node if node.op_type in _CHANGED})
        if changed and opset_of(model) < 21:
            raise BudgetError(
                f"the network uses {changed[0]} of opset {opset_of(model)}, which means something else from 21 on: export it "
                "with opset 20 by torch.onnx.export(dynamo=True), which writes normalisations in simpler operators"
            )
        others = [entry for entry in model.opset_import if entry.domain not in ("", "ai.onnx")]
        del model.opset_import[:]
        model.opset_import.extend([helper.make_opsetid("", least), *others])
    model.ir_version = max(model.ir_version, _IR[min(max(opset_of(model), 20), 24)])
    return model
