"""The estimator of ranges is chosen for the layers that stay in int8, not for those that fall back to float."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.bundle.spec import ComponentSpec, TensorSpec
from aigc_edge.compress.calibration.trajectory import Calibration
from aigc_edge.compress.formats.int8 import Int8
from aigc_edge.compress.recipes.int8 import Int8Recipe
from aigc_edge.compress.recipes.recipe import LayerEvaluator
from aigc_edge.diffusion import Program

SIZE, CHANNELS = 8, 16


def _generator(rng: np.random.Generator) -> onnx.ModelProto:
    """Three convolutions and a Tanh, whose input is so large that int8 has few steps for what it does not saturate."""
    shapes = {"a": (CHANNELS, 4), "b": (CHANNELS, CHANNELS), "c": (4, CHANNELS)}
    gains = {"a": 0.2, "b": 0.1, "c": 1.5}
    constants = [
        numpy_helper.from_array((gains[k] * rng.standard_normal((*s, 3, 3))).astype(np.float32), k) for k, s in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["ha"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["ha"], ["ra"]),
        helper.make_node("Conv", ["ra", "b"], ["hb"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["hb"], ["rb"]),
        helper.make_node("Conv", ["rb", "c"], ["hc"], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["hc"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4, SIZE, SIZE]) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], constants), opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    )
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("kept", [1, 2])
def test_the_estimator_is_the_best_for_the_layers_that_remain(rng: np.random.Generator, kept: int) -> None:
    tensors = [TensorSpec(name, "sample", "float32", ("N", 4, SIZE, SIZE)) for name in ("x", "y")]
    spec = ComponentSpec("decoder", tuple(tensors[:1]), tuple(tensors[1:]))
    calibration = Calibration.draw(spec, Program("one-shot", slots=1, init_scale=1.0, rows=()), 16)
    format, model = Int8(), _generator(rng)
    reference = format.reference(model, calibration, 1, lambda done, total: None)
    recipe = format.recipe(model, reference)
    assert isinstance(recipe, Int8Recipe)
    evaluator, layers = LayerEvaluator(recipe, reference), recipe.layers[:kept]
    recipe.fit(evaluator, lambda *_: None)
    fitted = evaluator.sample_error(layers)
    errors = {}
    for name in recipe.errors:
        recipe.calibrate(name)
        errors[name] = evaluator.sample_error(layers)
    for name in recipe.errors:  # whichever was used before
        recipe.calibrate(name)
        assert recipe.refit(evaluator, layers, errors[name]) == min(errors.values()) <= fitted
        assert errors[recipe.estimator] == evaluator.sample_error(layers) == min(errors.values())
