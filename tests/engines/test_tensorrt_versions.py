"""The whole build path on each version of the API: modules that have the recorded names and nothing else.

They prove that every name exists with those parameters in that version, and what is asked of the builder; not what it builds.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from aigc_edge.engines import cuda_driver
from aigc_edge.engines.plans import plan as tensorrt_plan
from aigc_edge.engines.plans.cache import timings_file
from aigc_edge.engines.plans.module import installed
from aigc_edge.engines.plans.options import BuildOptions
from aigc_edge.engines.plans.plan import PlanRequest, build_plan
from aigc_edge.errors import AigcEdgeError

onnx = pytest.importorskip("onnx")
ORIN, THOR, CARD = (
    cuda_driver.Device(*facts) for facts in (("Orin", 87, 64 << 30), ("Thor", 110, 128 << 30), ("RTX 4090", 89, 24 << 30))
)
VERSIONS = {
    "tensorrt_10_3": ("tensorrt", ORIN, "jetson-orin-agx"),
    "tensorrt_11_4": ("tensorrt", THOR, "jetson-thor"),
    "tensorrt_rtx_1_7": ("tensorrt_rtx", CARD, "rtx-40"),
}


@pytest.fixture
def on_device(fake_tensorrt, network, monkeypatch, tmp_path):
    """on_device(version) → a request on the device that has this version, and what the builder was asked for by a request."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(version, **changes):
        module, device, target = VERSIONS[version]
        lines = [fake_tensorrt.line(name, "Float") for name in ("node_of_y",)]
        fake_tensorrt(module, version, lines)
        monkeypatch.setattr(cuda_driver, "device", lambda: device)
        monkeypatch.setattr(
            tensorrt_plan, "module_version", lambda name: "1.7.1" if "rtx" in name else version[-4:].replace("_", ".")
        )
        own = device.name if module == "tensorrt" else ""
        request = PlanRequest(network.folder / "net.onnx", "fp32", device.sm, target, module, (1, 2, 8), own)
        return dataclasses.replace(request, **changes)

    return make


def _asked(request, **limits):
    plan = build_plan(request, **limits)
    return plan, json.loads(plan.file.read_text())


@pytest.mark.parametrize("version", VERSIONS)
def test_a_plan_is_built_with_every_version(on_device, version):
    request = on_device(version)
    plan, asked = _asked(request)
    sample, vector = [3, 8, 8], []
    shapes = {"sample": sample, "timestep": vector, "class_labels": vector}
    assert asked["profiles"] == [{name: [[n, *rest] for n in (1, 2, 8)] for name, rest in shapes.items()}]
    assert asked["flags"] == ["TF32"]
    assert asked["verbosity"] == "DETAILED"
    assert asked["level"] is None
    assert asked.get("capability") == ("SM89" if "rtx" in version else None)
    assert ("times_before" in asked) == ("rtx" not in version)
    recorded = json.loads((Path(__file__).parent / f"recorded_{version}.json").read_text())
    assert plan.built_with == f"{request.module} {recorded['version']}"
    assert plan.report["precision"]["layers"] == {"fp32": 1}
    assert plan.report["precision"]["as_asked"] == 1.0
    assert plan.report["device"] == ("" if "rtx" in version else request.device)


def test_kernel_times_are_kept_for_the_next_build(on_device):
    request = on_device("tensorrt_10_3")
    assert _asked(request)[1]["times_before"] == ""
    assert _asked(request, force=True)[1]["times_before"].startswith("times of this version")
    (file,) = timings_file("x").parent.iterdir()
    file.write_bytes(b"from another driver")
    assert _asked(dataclasses.replace(request, batches=(1, 1, 2)))[1]["times_before"] == ""


@pytest.mark.parametrize("version", VERSIONS)
def test_options_reach_the_builder_and_the_report(on_device, version):
    options = {"refit": True, "strip": True, "weight_streaming": True, "workspace_gb": 1.0, "timing_cache": False}
    flags = {"TF32", "REFIT", "STRIP_PLAN", "WEIGHT_STREAMING"}
    if "rtx" not in version:
        options["version_compatible"] = True
        flags.add("VERSION_COMPATIBLE")
    plan, asked = _asked(on_device(version, options=BuildOptions.parse(options)))
    assert set(asked["flags"]) == flags
    assert asked["WORKSPACE"] == 2**30
    assert "times_before" not in asked
    assert plan.report["options"] == options


@pytest.mark.parametrize("version", VERSIONS)
def test_the_zeros_of_sparse_weights_are_looked_for(on_device, version):
    assert "SPARSE_WEIGHTS" in _asked(on_device(version, format="sparse24"))[1]["flags"]


@pytest.mark.parametrize("option", [{"version_compatible": True}, {"hardware_compatibility": "same_sm"}])
def test_what_tensorrt_rtx_never_takes(on_device, option):
    with pytest.raises(AigcEdgeError, match=rf"{next(iter(option))} is not available for rtx-40: TensorRT-RTX .*; leave it out"):
        build_plan(on_device("tensorrt_rtx_1_7", options=BuildOptions.parse(option)))


@pytest.mark.parametrize("option", ["refit", "strip"])
def test_what_tensorrt_rtx_needs_a_driver_for(on_device, monkeypatch, option):
    request = on_device("tensorrt_rtx_1_7", options=BuildOptions.parse({option: True}))
    monkeypatch.setattr(cuda_driver, "device", lambda: None)
    with pytest.raises(AigcEdgeError, match=rf"{option} is not available for rtx-40: TensorRT-RTX needs an NVIDIA driver"):
        build_plan(request)


def test_hardware_compatibility_where_module_and_device_have_it(on_device):
    level = {name: BuildOptions(hardware_compatibility=name) for name in ("ampere+", "same_sm")}
    request = on_device("tensorrt_11_4", options=level["same_sm"])
    with pytest.raises(
        AigcEdgeError, match=r"is not available for jetson-thor: hardware compatibility is not supported on Jetson"
    ):
        build_plan(request)
    hopper = dataclasses.replace(request, sm=90, target="h100", device="NVIDIA H100")
    assert _asked(hopper)[1]["level"] == "SAME_COMPUTE_CAPABILITY"
    assert _asked(dataclasses.replace(hopper, options=level["ampere+"]))[1]["level"] == "AMPERE_PLUS"


def test_a_level_that_the_version_lacks(on_device):
    request = on_device("tensorrt_10_3", sm=90, target="h100", options=BuildOptions(hardware_compatibility="same_sm"))
    with pytest.raises(AigcEdgeError, match=r"tensorrt 10\.3.*same_sm: this version has none, ampere\+; choose one"):
        build_plan(request)


def test_an_old_version_is_refused(on_device, monkeypatch):
    request = on_device("tensorrt_10_3")
    monkeypatch.setattr(tensorrt_plan, "module_version", lambda name: "10.0.1")
    with pytest.raises(AigcEdgeError, match=r"tensorrt 10\.0\.1 is too old for jetson-orin-agx: install 10\.3 or newer"):
        build_plan(request)


@pytest.mark.parametrize(
    ("owner", "kind", "name"),
    [
        ("IBuilderConfig", "methods", "add_optimization_profile"),
        ("IBuilderConfig", "properties", "profiling_verbosity"),
    ],
)
def test_a_name_that_a_version_lacks_fails_the_build(on_device, fake_tensorrt, owner, kind, name):
    request = on_device("tensorrt_11_4")
    file = fake_tensorrt.folder / "recorded.json"
    recorded = json.loads(file.read_text())
    del recorded["classes"][owner][kind][name]
    file.write_text(json.dumps(recorded))
    with pytest.raises(AigcEdgeError, match=rf"exit code 1: AttributeError.*{name}"):
        build_plan(request)


def test_a_device_without_onnx_manages(on_device, monkeypatch, network):
    request = on_device("tensorrt_10_3")
    find = __import__("importlib").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "onnx" else find(name, *rest))
    plan, asked = _asked(request)
    assert len(asked["profiles"]) == 1
    assert plan.report["expected"] == plan.report["surprises"] == []
    assert plan.report["precision"]["as_asked"] is None


@pytest.mark.parametrize("version", VERSIONS)
def test_what_runs_a_plan_exists_in_every_version(version):
    classes = json.loads((Path(__file__).parent / f"recorded_{version}.json").read_text())["classes"]
    used = {
        "Runtime": "deserialize_cuda_engine engine_host_code_allowed",
        "ICudaEngine": "create_execution_context get_tensor_name get_tensor_dtype get_tensor_profile_shape num_io_tensors",
        "IExecutionContext": "set_input_shape set_tensor_address execute_async_v3",
    }
    for owner, names in used.items():
        assert set(names.split()) <= set(classes[owner]["methods"]) | set(classes[owner]["properties"])


@pytest.mark.skipif("tensorrt_rtx" not in installed(), reason="tensorrt_rtx is not installed")
def test_the_recording_is_what_the_installed_module_has():
    import tensorrt_rtx

    recorded = json.loads((Path(__file__).parent / "recorded_tensorrt_rtx_1_7.json").read_text())
    if tensorrt_rtx.__version__ != recorded["version"]:
        pytest.skip(f"another version, {tensorrt_rtx.__version__}, is installed")
    for owner, found in recorded["classes"].items():
        assert set(found["methods"]) | set(found["properties"]) <= set(dir(getattr(tensorrt_rtx, owner)))
    for name, members in recorded["enums"].items():
        owner = tensorrt_rtx.ILogger.Severity if "." in name else getattr(tensorrt_rtx, name)
        assert {key: int(value) for key, value in owner.__members__.items()} == members
