"""A network without its schedule is calibrated and compressed like the whole one, its constants fed by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from aigc_edge.bundle.spec import BATCH, ComponentSpec, TensorSpec
from aigc_edge.compress.calibration.trajectory import Calibration, Record
from aigc_edge.compress.format import parse
from aigc_edge.compress.graphs.graph import Network
from aigc_edge.errors import AigcEdgeError
from aigc_edge.export.schedule import split_schedule


@pytest.fixture
def split(rng: np.random.Generator, make: dict[str, Any]) -> tuple[Any, Any, Calibration, Calibration]:
    """The UNet, what is left of it, and the calibration of either from the same noise."""
    net = make["unet"](rng)
    denoiser, schedule, _ = split_schedule(ir.from_proto(net.model))
    assert schedule is not None
    evaluate, outputs = Network(ir.to_proto(schedule)), schedule.graph.outputs
    names = [str(value.name) for value in outputs]

    def constants(timestep: float) -> Mapping[str, Any]:
        return dict(zip(names, evaluate({"timestep": np.array([timestep], np.float32)}), strict=True))

    given = [
        TensorSpec(str(v.name), "constant", "float32", (BATCH, *map(int, map(str, list(v.shape or [])[1:])))) for v in outputs
    ]
    kept = [t for t in net.spec.inputs if t.role != "timestep"]
    rest = replace(
        net, name="rest", model=ir.to_proto(denoiser), spec=ComponentSpec("denoiser", (*kept, *given), net.spec.outputs)
    )
    whole = net.calibration(4, seed=int(rng.integers(2**31)))
    return net, rest, whole, replace(whole, spec=rest.spec, constants=constants)


def test_it_sees_the_same_trajectory(split: tuple[Any, Any, Calibration, Calibration]) -> None:
    net, rest, whole, without = split
    first: list[Record] = []
    second: list[Record] = []
    wanted = whole.run(Network(net.model), first)
    made = without.run(Network(rest.model), second)
    np.testing.assert_allclose(made, wanted, atol=1e-5)
    assert without.constants is not None
    for row, before, after in zip(net.program.rows, first, second, strict=True):
        assert "timestep" not in after.inputs
        np.testing.assert_array_equal(after.inputs["class_labels"], before.inputs["class_labels"])
        for name, value in without.constants(row.timestep).items():
            np.testing.assert_array_equal(after.inputs[name], np.repeat(value, len(before.inputs["sample"]), axis=0))
            assert after.inputs[name].flags.c_contiguous
    part, _ = without.split(2)
    assert part.constants is without.constants


@pytest.mark.parametrize("format", ["fp16", "int8:psnr=0,rank=false,estimator=minmax"])
def test_formats_are_as_good_as_of_the_whole(
    split: tuple[Any, Any, Calibration, Calibration], tmp_path: Path, format: str
) -> None:
    net, rest, whole, without = split
    reports = [
        parse(format).convert(part.write(tmp_path), tmp_path / f"{part.name}.out.onnx", calibration).to_json()
        for part, calibration in ((net, whole), (rest, without))
    ]
    assert reports[1]["psnr"] > min(reports[0]["psnr"] - 3, 50)  # of smaller errors than that luck decides
    assert reports[1]["bytes"] < reports[0]["bytes"]


def test_constants_that_are_missing_are_said(split: tuple[Any, Any, Calibration, Calibration]) -> None:
    _, rest, _, without = split
    for constants in (None, lambda timestep: {}):
        with pytest.raises(AigcEdgeError, match="'constant_0' of 'denoiser' needs schedule constants"):
            replace(without, constants=constants).run(Network(rest.model))
