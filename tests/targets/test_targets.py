"""Every target file follows the schema; names and groups are resolved."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from aigc_edge import targets
from aigc_edge.engines.base import ENGINES
from aigc_edge.engines.formats import formats_of
from aigc_edge.engines.plans.support import limit_of, limits_of
from aigc_edge.errors import AigcEdgeError
from aigc_edge.targets import Target

FILES = sorted(Path(targets.__file__).parent.glob("*.json"))
# Compute capability → formats that arrive with it (and stay), from NVIDIA's documentation and from builds.
FIRST = {"fp32": 80, "bf16": 80, "int8": 80, "int4": 80, "fp8": 89, "nvfp4": 100, "fp16": 75}
FIRST |= {"int8w": 75, "fp8w": 89, "svdquant": 80, "sparse24": 80, "pruned": 80}
# Formats that a device before that capability cannot run at all.
BEGIN = {"bf16": 80, "int4": 80, "fp8": 89, "fp8w": 89, "nvfp4": 100, "w4a4": 100}
RTX_BUILDS = {75, 80, 86, 89, 120, 121}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_target_file_follows_the_schema(path):
    value = json.loads(path.read_text("utf-8"))
    assert value["name"] == path.stem
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", value["name"])
    target = Target.from_json(value)
    assert target.title
    assert targets.get(target.name) == target
    if target.kind == "group":
        assert {"name", "title", "kind", "members"} == set(value)
        assert all(targets.get(name).kind != "group" for name in target.members)
        return
    keys = "name title kind engine sm memory_gb bandwidth_gbs tops figures tensorrt clocks"
    assert set(keys.split()) == set(value)
    assert target.engine in ENGINES
    assert target.clocks.record
    assert target.clocks.fix
    if target.kind == "gpu":
        assert target.memory_gb > 0
        assert target.bandwidth_gbs > 0
        assert set(formats_of(target)) & set(FIRST) == {p for p, sm in FIRST.items() if target.sm >= sm}
        assert (target.flavour == "tensorrt_rtx") == (target.sm in RTX_BUILDS)
        assert set(value["tensorrt"]) == {"flavour", "least", "most", "without"}
        assert [int(part) for part in target.least.split(".")] <= [int(part) for part in target.most.split(".")]
        assert target.clocks.power
        _check_tops(target)
        _check_limits(target)


def _check_tops(target):
    rates = dict(target.tops)
    assert set(rates) == {"fp32", "fp16", "int8"} | {
        r for r, sm in {"bf16": 80, "fp8": 89, "fp4": 100}.items() if target.sm >= sm
    }
    assert "dense" in target.figures
    assert rates["fp32"] < rates["fp16"]
    assert rates["int8"] == pytest.approx(2 * rates["fp16"], rel=0.02)  # with the sums that each series is fastest in
    assert rates.get("fp8", rates["int8"]) == rates["int8"]
    assert rates.get("fp4", 2 * rates["int8"]) == pytest.approx(2 * rates["int8"], rel=0.01)


def _check_limits(target):
    impossible = {(limit.format, limit.operator) for limit in limits_of(target) if limit.runs is None}
    assert {format for format, operator in impossible if operator == "*"} == {f for f, sm in BEGIN.items() if target.sm < sm}
    assert ({("fp32", "MatMul"), ("fp32", "Gemm")} <= impossible) == (target.sm < 80)
    for operator, silent in (("ConvTranspose", True), ("Conv", target.sm < 80), ("MatMul", False)):
        assert (limit_of(target, "int8", operator) is not None) == silent
    for operator in ("Conv", "ConvTranspose", "MatMul", "Gemm"):  # 4-bit products of Blackwell cards are those of matrices
        limit = limit_of(target, "w4a4", operator)
        if target.sm < 100:
            assert limit is not None
            assert limit.runs is None
        else:
            assert (limit is not None) == operator.startswith("Conv")
            assert limit is None or limit.runs == "float"
    assert len({(limit.format, limit.operator) for limit in limits_of(target)}) == len(limits_of(target))


def test_the_devices_that_users_name_are_there():
    names = "x86-cpu arm-cpu rtx-20 rtx-30 rtx-40 rtx-50 jetson-orin-nano jetson-orin-nx jetson-orin-agx jetson-thor a100 l4 l40s"
    assert set(names.split()) | {"rtx", "h100", "h200", "b200"} <= set(targets.all_targets())
    expected = {
        "rtx-20": 75,
        "rtx-30": 86,
        "rtx-40": 89,
        "rtx-50": 120,
        "jetson-orin-nano": 87,
        "jetson-thor": 110,
        "a100": 80,
        "h200": 90,
    }
    assert {name: targets.get(name).sm for name in expected} == expected


def test_groups_are_expanded_once_in_order():
    found = [t.name for t in targets.expand(["rtx-40", "x86-cpu", "rtx", "x86-cpu"])]
    assert found == ["rtx-40", "x86-cpu", "rtx-30", "rtx-50"]
    assert targets.expand([]) == []


def test_a_gpu_has_the_limits_of_its_capability():
    assert targets.of_gpu("l4", 89).name == "l4"
    assert targets.of_gpu("NVIDIA RTX 5000 Ada", 89).sm == 89
    assert targets.of_gpu("l4", 86).sm == 86
    assert targets.of_gpu("x", 999) is None


def test_an_unknown_target_lists_what_there_is():
    with pytest.raises(AigcEdgeError, match=r"unknown target 'rtx-99'.*rtx-30.*x86-cpu"):
        targets.expand(["x86-cpu", "rtx-99"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "tpu"}, "kind"),
        ({"sm": None}, "sm"),
        ({"tensorrt": {"flavour": "other"}}, "flavour"),
        ({"engine": ""}, "names its engine"),
        ({"engine": "onnxruntime"}, "only a target of the engine tensorrt"),
        ({"members": ["a100"]}, "members"),
        ({"speed": 3}, "speed"),
        ({"kind": "cpu"}, "only a gpu"),
        ({"precisions": ["fp32"]}, "precisions"),
        ({"tops": {"fp16": -1}}, "tops are positive"),
        ({"tops": {"fp3": 1}}, "tops are positive"),
        ({"figures": ""}, "figures"),
        ({"clocks": {"speed": []}}, "unknown clocks speed"),
    ],
)
def test_a_malformed_target_is_named(change, words):
    good = json.loads((Path(targets.__file__).parent / "rtx-30.json").read_text())
    with pytest.raises(AigcEdgeError, match=f"'rtx-30' is malformed.*{words}"):
        Target.from_json(good | change)
