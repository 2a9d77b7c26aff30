"""A newer opset changes what a network may hold, not what it computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from aigc_edge.compress.graphs.graph import Network
from aigc_edge.compress.graphs.opset import opset_of, raise_opset
from aigc_edge.errors import AigcEdgeError


@pytest.mark.parametrize("least", [13, 21, 22])
def test_results_stay(rng: np.random.Generator, make: dict, least: int) -> None:
    for name in ("unet", "chain", "products"):
        net = make[name](rng)
        records: list = []
        wanted = net.calibration(2).run(Network(net.model), records)
        copy = onnx.ModelProto()
        copy.CopyFrom(net.model)
        raised = raise_opset(copy, least)
        assert opset_of(raised) == max(least, 20)
        onnx.checker.check_model(raised, full_check=True)
        np.testing.assert_array_equal(net.calibration(2).run(Network(raised)), wanted)


def test_an_old_opset_is_converted(rng: np.random.Generator, make: dict) -> None:
    net = make["products"](rng)
    del net.model.opset_import[:]
    net.model.opset_import.append(helper.make_opsetid("", 13))
    x = rng.standard_normal((3, 8)).astype(np.float32)
    wanted = Network(net.model)({"x": x})[0]
    raised = raise_opset(net.model, 21)
    onnx.checker.check_model(raised, full_check=True)
    assert (opset_of(raised), raised.ir_version) == (21, 10)
    np.testing.assert_allclose(Network(raised)({"x": x})[0], wanted, rtol=1e-6)


def test_what_changed_its_meaning_is_refused(rng: np.random.Generator, make: dict) -> None:
    nodes = [helper.make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)]
    net = make["decoder"]("norm", nodes, {"s": np.ones(2, np.float32), "b": np.zeros(2, np.float32)}, [4, 3, 3], [4, 3, 3])
    assert raise_opset(net.model, 19) is net.model
    with pytest.raises(AigcEdgeError, match="GroupNormalization of opset 20, which means something else from 21 on"):
        raise_opset(net.model, 21)
    assert net.model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
