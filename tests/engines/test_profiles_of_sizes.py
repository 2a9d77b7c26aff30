"""TensorRT plans of a network that serves several image sizes: one profile from the least to the largest of each side."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.bundle.spec import ComponentSpec, TensorSpec
from aigc_edge.engines.plans import plan as tensorrt_plan
from aigc_edge.engines.plans.module import installed
from aigc_edge.engines.plans.plan import PlanRequest, build_plan, shapes_of
from aigc_edge.errors import AigcEdgeError

SIZES = [(64, 96), (32, 128)]
BATCHES = (1, 2, 8)
SPEC = ComponentSpec(
    "denoiser",
    (TensorSpec("x", "sample", "float32", ("N", 4, "H/8", "W/8")), TensorSpec("t", "timestep", "float32", ("N",))),
    (TensorSpec("y", "sample", "float32", ("N", 4, "H/8", "W/8")),),
)


@pytest.fixture
def request_for(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> PlanRequest:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    weight = numpy_helper.from_array(rng.normal(size=(4, 4, 3, 3)).astype(np.float32), "w")
    axes = numpy_helper.from_array(np.array([1, 2, 3]), "axes")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Unsqueeze", ["t", "axes"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(t.name, TensorProto.FLOAT, list(t.shape)) for t in (*SPEC.inputs, *SPEC.outputs)]
    graph = helper.make_graph(nodes, "net", values[:2], values[2:], [weight, axes])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "net.onnx")
    return PlanRequest(tmp_path / "net.onnx", "fp32", 120, "rtx-50", batches=BATCHES)


def test_the_profile_covers_every_size() -> None:
    assert shapes_of(SPEC, [], BATCHES) == {}
    assert shapes_of(SPEC, SIZES, BATCHES) == {
        "x": [[1, 4, 4, 12], [2, 4, 8, 12], [8, 4, 8, 16]],
        "t": [[1], [2], [8]],
    }
    one = shapes_of(SPEC.at(SIZES[1]), [SIZES[1]], BATCHES)
    assert one["x"] == [[1, 4, 4, 16], [2, 4, 4, 16], [8, 4, 4, 16]]


@pytest.mark.skipif("tensorrt_rtx" not in installed(), reason="tensorrt_rtx is not installed")
def test_a_plan_for_several_sizes(request_for: PlanRequest) -> None:
    with pytest.raises(AigcEdgeError, match=r"dynamic dimension other than the batch"):
        build_plan(request_for)
    request = dataclasses.replace(request_for, shapes=shapes_of(SPEC, SIZES, BATCHES))
    plan = build_plan(request)
    assert plan.file.stat().st_size == plan.report["plan_bytes"]
    assert plan.report["precision"]["layers"] == {"fp32": 1}
    assert plan.report["shapes"]["x"] == [[1, 4, 4, 12], [2, 4, 8, 12], [8, 4, 8, 16]]
    others = [shapes_of(SPEC, sizes, BATCHES) for sizes in ([(64, 96)], [(64, 96), (32, 96)])]
    requests = [request, *(dataclasses.replace(request, shapes=shapes) for shapes in others)]
    assert len({tensorrt_plan._key(r, tensorrt_plan._digests(r.onnx)) for r in requests}) == 3
