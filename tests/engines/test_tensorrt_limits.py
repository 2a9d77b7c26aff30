"""Limits before a build, the build log after it, the options of builds, and the cache that plans are kept in."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest

from aigc_edge import targets
from aigc_edge.engines.cache import VARIABLE, cache_limit
from aigc_edge.engines.formats import formats_of
from aigc_edge.engines.plans.cache import evict, find, store, typical_seconds
from aigc_edge.engines.plans.graph import RequestedLayer
from aigc_edge.engines.plans.limits import check_precision, compare_with_log, expected_fallbacks, sentences, with_outputs
from aigc_edge.engines.plans.options import BuildOptions, check_options
from aigc_edge.engines.plans.support import Limit
from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import sha256_of

CONV = RequestedLayer("conv", "Conv", "int8", "int8", "fp16")
UP = RequestedLayer("up", "ConvTranspose", "int8", "int8", "fp16")
GEMM = RequestedLayer("gemm", "Gemm", "fp32", "fp32", "fp32")


@pytest.mark.parametrize(
    ("target", "layer", "words"),
    [
        (
            "rtx-30",
            replace(CONV, format="fp8", runs="fp8"),
            "its Conv in fp8 (conv) does not run there, 8-bit floats begin with Ada",
        ),
        ("jetson-orin-nano", replace(CONV, format="fp8w", runs="fp16"), "Ada and Hopper"),
        ("h100", replace(GEMM, format="nvfp4"), "Blackwell"),
        (
            "rtx-40",
            replace(GEMM, format="w4a4", runs="fp4"),
            "its Gemm in w4a4 (gemm) does not run there, 4-bit floats begin with",
        ),
        ("rtx-20", GEMM, "its Gemm in fp32"),
        ("rtx-20", replace(GEMM, format="int8", runs="int8"), "its Gemm in fp32"),  # what surrounds it falls back to fp32
        ("rtx-20", replace(CONV, format="bf16", runs="bf16", around="bf16"), "bfloat16 begins with Ampere"),
    ],
)
def test_unsupported_layers_are_refused_with_name_and_reason(target, layer, words):
    with pytest.raises(AigcEdgeError, match=r"net\.onnx cannot be built for") as error:
        expected_fallbacks(targets.get(target), [layer], "net.onnx")
    assert words in str(error.value)
    assert ", ".join(formats_of(targets.get(target))) in str(error.value)


def test_fallbacks_are_predicted():
    (fallback,) = expected_fallbacks(targets.get("rtx-40"), [CONV, UP, replace(UP, name="up2")], "net.onnx")
    assert (fallback["operator"], fallback["format"], fallback["runs"]) == ("ConvTranspose", "int8", "fp16")
    assert fallback["layers"] == ["up", "up2"]
    assert [e["operator"] for e in expected_fallbacks(targets.get("rtx-20"), [CONV, UP], "net.onnx")] == ["Conv", "ConvTranspose"]
    assert expected_fallbacks(targets.get("rtx-40"), [CONV, GEMM], "net.onnx") == []
    assert expected_fallbacks(None, [CONV, UP], "net.onnx") == []
    four = [replace(layer, format="w4a4", runs="fp4") for layer in (CONV, GEMM)]
    (fallback,) = expected_fallbacks(targets.get("rtx-50"), four, "net.onnx")
    assert (fallback["operator"], fallback["format"], fallback["runs"], fallback["layers"]) == ("Conv", "w4a4", "fp16", ["conv"])
    assert "no convolution in fp4" in fallback["why"]


def test_a_limit_of_one_module_does_not_apply_to_the_other():
    up = replace(UP, format="bf16", runs="bf16", around="bf16")
    for module in (None, "tensorrt_rtx"):
        with pytest.raises(AigcEdgeError, match="its ConvTranspose in bf16"):
            expected_fallbacks(targets.get("rtx-40"), [up], "net.onnx", module)
    assert expected_fallbacks(targets.get("rtx-40"), [up], "net.onnx", "tensorrt") == []


def _row(node, precision, macs):
    return {"name": f"{node}_myl0_1", "kind": "x", "precision": precision, "macs": macs, "nodes": [node, "node_of_scale"]}


def test_the_log_is_compared_with_the_requested_types():
    other = replace(CONV, name="other")
    fallbacks = expected_fallbacks(targets.get("rtx-40"), [CONV, UP, other], "net.onnx")
    table = [_row("conv", "int8", 600), _row("up", "fp16", 300), _row("other", "fp16", 100), _row("unknown", "fp32", 5000)]
    comparison = compare_with_log([CONV, UP, other], table, fallbacks)
    assert comparison["as_asked"] == 0.6
    assert [(s["layer"], s["asked"], s["runs"], s["foreseen"]) for s in comparison["surprises"]] == [
        ("up", "int8", "fp16", True),
        ("other", "int8", "fp16", False),
    ]
    lines = sentences({"expected": fallbacks, "surprises": comparison["surprises"]})
    assert lines[0].startswith("1 ConvTranspose in fp16, not int8 (up): TensorRT has no transposed convolution in int8")
    assert lines[1] == "1 Conv in fp16, not int8 (other)"
    assert compare_with_log([CONV], [], []) == {"as_asked": None, "surprises": []}


def test_rows_name_the_outputs_of_their_layers():
    table = [_row("conv", "int8", 600), _row("up", "fp16", 300), _row("unknown", "fp32", 5)]
    rows = with_outputs([replace(CONV, output="image"), replace(UP, output="up"), replace(GEMM, output="y")], table)
    assert [row["nodes"] for row in rows] == [["conv", "node_of_scale", "image"], *(row["nodes"] for row in table[1:])]
    assert with_outputs([], table) == table


def test_a_format_that_no_layer_runs_in_is_refused():
    check_precision("int8", "rtx-30", "net.onnx", {"layers": {"int8": 1, "fp16": 9}})
    check_precision("int4", "rtx-30", "net.onnx", {"layers": {"fp16": 9}})  # weights only
    with pytest.raises(AigcEdgeError, match=r"no convolution or matrix product of net.onnx runs in it there \(9 in fp16\)"):
        check_precision("int8", "rtx-30", "net.onnx", {"layers": {"fp16": 9}})
    surprises = [{"layer": "a", "operator": "MatMul", "asked": "fp4", "runs": "fp16", "foreseen": False}]
    check_precision("nvfp4", "rtx-50", "net.onnx", {"layers": {"fp16": 9}})
    check_precision("nvfp4", "rtx-50", "net.onnx", {"layers": {"fp16": 9, "fp4": 1}}, surprises)
    with pytest.raises(AigcEdgeError, match="fp4 was requested for rtx-50, but no convolution or matrix product"):
        check_precision("nvfp4", "rtx-50", "net.onnx", {"layers": {"fp16": 9}}, surprises)


def test_a_limit_says_where_it_holds():
    limit = Limit("int8", "*", None, "because")
    assert limit.covers("int8", "Gemm")
    assert not limit.covers("int8w", "Gemm")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"refits": True}, "unknown build option refits: choose from version_compatible"),
        ({"refit": "yes"}, "refit is 'yes'"),
        ({"hardware_compatibility": "all"}, "choose one of none, ampere.*same_sm"),
        ({"workspace_gb": 0}, "above 0"),
    ],
)
def test_options_say_what_is_allowed(values, words):
    with pytest.raises(AigcEdgeError, match=words):
        BuildOptions.parse(values)


def test_a_device_may_not_take_an_option():
    options = BuildOptions.parse({"hardware_compatibility": "ampere+", "workspace_gb": 2})
    assert options.non_default == {"hardware_compatibility": "ampere+", "workspace_gb": 2.0}
    check_options(options, "tensorrt", targets.get("h100"), driver=True)
    check_options(options, "tensorrt", None, driver=True)
    with pytest.raises(AigcEdgeError, match=r"is not available for jetson-thor: .*not supported on Jetson; leave it out"):
        check_options(options, "tensorrt", targets.get("jetson-thor"), driver=True)


@pytest.fixture
def plans(tmp_path):
    """plan(name, bytes, hours) makes a plan with its report, last used so many hours ago."""

    def make(name, size, hours, **report):
        file = tmp_path / f"{name}.plan"
        file.write_bytes(os.urandom(size))
        sidecar = file.with_suffix(".json")
        store(file, {"plan_sha256": sha256_of(file)} | report)
        for path in (file, sidecar):
            os.utime(path, (time.time() - hours * 3600,) * 2)
        return file

    return make


def test_the_least_recently_used_plans_are_evicted(plans, tmp_path):
    old, middle, recent, new = plans("old", 400, 50), plans("middle", 400, 40), plans("recent", 400, 0.5), plans("new", 400, 60)
    find(old)  # marks it as used
    assert evict(tmp_path, 1300, keep=new) == [middle]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        p.with_suffix(s).name for p in (old, recent, new) for s in (".plan", ".json")
    )
    assert evict(tmp_path, 0, keep=new) == []  # used within the hour, or just built
    assert find(recent) is not None
    assert find(middle) is None


def test_stale_partial_files_are_removed_after_a_day(plans, tmp_path):
    plans("whole", 10, 50)
    for name, hours in ((".a.part", 30), (".b.part", 1), ("orphan.json", 30), ("fresh.json", 1)):
        (tmp_path / name).write_text("{}")
        os.utime(tmp_path / name, (time.time() - hours * 3600,) * 2)
    evict(tmp_path, 1e9, keep=tmp_path / "none")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".b.part", "fresh.json", "whole.json", "whole.plan"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: f.write_bytes(b"x"),
        lambda f: f.write_bytes(f.read_bytes()[:-8] + bytes(8)),
        lambda f: f.unlink(),
        lambda f: f.with_suffix(".json").write_text("{"),
        lambda f: f.with_suffix(".json").write_text("[]"),
        lambda f: f.with_suffix(".json").write_text(f.with_suffix(".json").read_text().replace("int8", "int4")),
    ],
)
def test_a_damaged_plan_is_not_found(plans, damage):
    file = plans("one", 100, 5, precision={"layers": {"int8": 3}})
    assert find(file) is not None
    damage(file)
    assert find(file) is None


def test_the_limit_comes_from_the_call_then_the_environment(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert cache_limit() == 20e9
    monkeypatch.setenv(VARIABLE, "1.5")
    assert cache_limit() == 1.5e9
    assert cache_limit(3) == 3e9
    for wrong in ("much", "-1", "nan"):
        monkeypatch.setenv(VARIABLE, wrong)
        with pytest.raises(AigcEdgeError, match=f"{VARIABLE} is '{wrong}': give the GB"):
            cache_limit()


def test_the_typical_time_follows_the_builds_of_the_same_module(plans, tmp_path):
    for index, seconds in enumerate((10.0, 20.0, 90.0)):
        plans(f"p{index}", 10, 1, module="tensorrt", seconds=seconds, onnx_bytes=9_000_000)
    assert typical_seconds(tmp_path, "tensorrt", 9_000_000) == pytest.approx(20)
    assert typical_seconds(tmp_path, "tensorrt", 38_000_000) == pytest.approx(40)
    assert 0 < typical_seconds(tmp_path, "tensorrt_rtx", 9_000_000) < 20
    assert typical_seconds(tmp_path / "none", "tensorrt", 9_000_000) > 0
