"""`aigc-edge build`: real plans of TensorRT-RTX put into bundles, and the device's own build on recorded versions of TensorRT."""

from __future__ import annotations

import importlib.util
import json

import pytest

from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.manifest import Manifest
from aigc_edge.cli import main
from aigc_edge.compile import build, build_targets
from aigc_edge.compile.build import build_bundle
from aigc_edge.engines import cuda_driver
from aigc_edge.engines.plans import plan as tensorrt_plan
from aigc_edge.engines.plans.module import installed
from aigc_edge.engines.plans.options import BuildOptions
from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import sha256_of
from aigc_edge.report.summary import describe

needs_rtx = pytest.mark.skipif("tensorrt_rtx" not in installed(), reason="tensorrt_rtx is not installed")
ORIN = cuda_driver.Device("Orin", 87, 64 << 30)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _engines(manifest):
    return manifest["components"]["denoiser"]["engines"]


def _state(bundle):
    return {path.relative_to(bundle): sha256_of(path) for path in sorted(bundle.rglob("*")) if path.is_file()}


@needs_rtx
def test_plans_come_into_a_folder_and_stay(bundle, monkeypatch):
    before = Bundle.open(bundle).manifest.to_json()
    stages = []
    built = build_bundle(bundle, targets=["rtx-40", "l4"], progress=lambda what, done, left: stages.append((what, done)))
    assert built.built == ("denoiser fp32 rtx-40", "denoiser fp32 l4")
    manifest = Bundle.open(bundle, verify=True).manifest.to_json()
    assert describe(bundle)["verified"] == len(manifest["files"])  # by the native reader too
    first, second = _engines(manifest)
    assert (first["target"], second["target"], first["sm"]) == ("rtx-40", "l4", 89)
    assert first["file"] == second["file"] == "engines/denoiser.fp32.rtx-40.plan"  # cards of one capability share a plan
    report = json.loads((bundle / "engines/denoiser.fp32.rtx-40.json").read_text())
    assert report["plan_sha256"] == manifest["files"][first["file"]]["sha256"]
    assert first["precision"]["layers"] == report["precision"]["layers"]
    assert first["precision"]["as_asked"] == 1.0
    assert first["expected"] == first["surprises"] == []
    assert set(manifest["targets"]) == {*before["targets"], "rtx-40", "l4"}
    for key in ("programs", "quality", "default_format", "provenance"):
        assert manifest[key] == before[key]
    assert [done for _, done in stages] == sorted(done for _, done in stages)
    assert {what for what, _ in stages} == {"building engines", "writing", "done"}

    # Again: nothing to do. With force: built anew.
    state = _state(bundle)
    monkeypatch.setattr(build, "build_plan", lambda *a, **k: pytest.fail("built again"))
    again = build_bundle(bundle, targets=["l4", "rtx-40"])
    assert (again.built, len(again.up_to_date)) == ((), 2)
    assert _state(bundle) == state
    monkeypatch.undo()
    assert build_bundle(bundle, targets=["l4"], force=True).built == ("denoiser fp32 l4",)


@needs_rtx
def test_a_packed_bundle_stays_packed_and_a_copy_leaves_it_alone(bundle, tmp_path):
    packed, copy = tmp_path / "packed.aigc", tmp_path / "copy.aigc"
    Bundle.open(bundle, verify=True).pack(packed)
    digest = sha256_of(packed)
    build_bundle(packed, targets=["rtx-30"], out=copy)
    assert sha256_of(packed) == digest
    assert copy.is_file()
    assert [e["target"] for e in _engines(Bundle.open(copy, verify=True).manifest.to_json())] == ["rtx-30"]
    with pytest.raises(AigcEdgeError, match="already exists"):
        build_bundle(packed, targets=["rtx-30"], out=copy)
    build_bundle(packed, targets=["rtx-30"])  # from the cache
    assert sha256_of(packed) == sha256_of(copy)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "copy.aigc", "packed.aigc", "small.aigc"]


def test_a_failure_leaves_the_bundle_as_it_was(bundle, monkeypatch):
    def broken(*_, **__):
        raise AigcEdgeError("building it failed: try again")

    monkeypatch.setattr(build_targets, "installed", lambda: ["tensorrt_rtx"])
    monkeypatch.setattr(build, "build_plan", broken)
    state = _state(bundle)
    for formats in (None, ["fp32"]):
        with pytest.raises(AigcEdgeError, match="building it failed"):
            build_bundle(bundle, targets=["rtx-30"], formats=formats)
    assert _state(bundle) == state
    assert [path.name for path in bundle.parent.iterdir() if path.name.startswith(".")] == []


@needs_rtx
def test_a_format_that_cannot_be_built_does_not_spoil_the_others(bundle):
    file = json.loads((bundle / "manifest.json").read_text())["components"]["denoiser"]["formats"]["fp32"]["file"]
    _amend(
        bundle, lambda m: m["components"]["denoiser"]["formats"].update(fp16={"file": "broken.onnx"}), {"broken.onnx": b"x" * 99}
    )
    assert (bundle / file).is_file()
    built = build_bundle(bundle, targets=["rtx-30"])
    assert built.built == ("denoiser fp32 rtx-30",)
    (skipped,) = built.skipped
    assert skipped.startswith("denoiser fp16 rtx-30 (broken.onnx is not a valid ONNX file")
    with pytest.raises(AigcEdgeError, match=r"broken\.onnx is not a valid ONNX"):
        build_bundle(bundle, targets=["rtx-30"], formats=["fp16"])


def _amend(bundle, change, files):
    """Change the manifest of a bundle and its files, digests too."""
    opened = Bundle.open(bundle, verify=True)
    members = opened.manifest.to_json()
    change(members)
    opened.amend(Manifest.from_json(members), files=files)


@pytest.fixture
def orin(fake_tensorrt, monkeypatch):
    """A Jetson Orin with a recorded version of TensorRT: orin("10_3")."""

    def make(version, device=ORIN, module="tensorrt"):
        known = f"{module}_{version}"
        folder = fake_tensorrt(module, known, [fake_tensorrt.line("node_conv", "Float")])
        monkeypatch.setattr(cuda_driver, "device", lambda: device)
        monkeypatch.setattr(build_targets, "installed", lambda: [module])
        recorded = json.loads((folder / "recorded.json").read_text())["version"]
        for place in (tensorrt_plan, build):
            monkeypatch.setattr(place, "module_version", lambda name: recorded)
        return recorded

    return make


def test_one_command_on_the_device_finishes_a_bundle(bundle, orin, capsys, monkeypatch):
    _amend(bundle, lambda m: m.update(notes=["jetson-orin-agx: its engine is built on the device", "another note"]), {})
    version = orin("10_3")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "onnx" else find(name, *rest))
    assert main(["build", str(bundle), "--option", "workspace_gb=2", "--batches", "1,2,4"]) == 0
    printed = capsys.readouterr().out
    assert "built: denoiser fp32 jetson-orin-agx" in printed
    assert f"tensorrt {version}" in printed
    manifest = Bundle.open(bundle, verify=True).manifest.to_json()
    (entry,) = _engines(manifest)
    assert (entry["target"], entry["sm"], entry["device"], entry["batches"]) == ("jetson-orin-agx", 87, "Orin", [1, 2, 4])
    assert entry["options"] == {"workspace_gb": 2.0}
    assert entry["built_with"] == f"tensorrt {version}"
    assert manifest["notes"] == ["another note"]
    assert json.loads((bundle / entry["file"]).read_text())["WORKSPACE"] == 2**31
    assert main(["build", str(bundle), "--option", "workspace_gb=2", "--batches", "1,2,4"]) == 0
    assert "up to date: denoiser fp32 jetson-orin-agx" in capsys.readouterr().out


def test_a_newer_version_replaces_its_own_plans_only(bundle, orin):
    orin("10_3")
    build_bundle(bundle)
    foreign = {"engine": "tensorrt", "format": "fp32", "target": "jetson-orin-nx", "sm": 87, "file": "engines/nx.plan"}
    foreign |= {"built_with": "tensorrt 10.3.0", "batches": [1, 2, 32], "device": "Orin NX"}
    _amend(bundle, lambda m: _engines(m).append(foreign), {"engines/nx.plan": b"nx", "engines/nx.json": b"{}"})
    version = orin("11_4")
    assert build_bundle(bundle).built == ("denoiser fp32 jetson-orin-agx",)
    manifest = Bundle.open(bundle, verify=True).manifest.to_json()
    assert [(e["target"], e["built_with"]) for e in _engines(manifest)] == [
        ("jetson-orin-nx", "tensorrt 10.3.0"),
        ("jetson-orin-agx", f"tensorrt {version}"),
    ]
    plans = {name for name in manifest["files"] if name.endswith(".plan")}
    assert plans == {"engines/nx.plan", "engines/denoiser.fp32.jetson-orin-agx.plan"}


def test_a_card_with_tensorrt_rtx_builds_for_its_capability(bundle, orin):
    orin("1_7", cuda_driver.Device("NVIDIA GeForce RTX 4070", 89, 12 << 30), "tensorrt_rtx")
    build_bundle(bundle, options=BuildOptions.parse({"refit": True}))
    (entry,) = _engines(Bundle.open(bundle).manifest.to_json())
    assert (entry["target"], entry["sm"], entry["options"]) == ("rtx-40", 89, {"refit": True})
    assert "device" not in entry
    built = json.loads((bundle / entry["file"]).read_text())
    assert built["capability"] == "SM89"
    assert "REFIT" in built["flags"]


def test_a_gpu_that_no_target_is_for(bundle, orin):
    orin("11_4", cuda_driver.Device("NVIDIA Graphics of Tomorrow", 130, 1 << 40))
    build_bundle(bundle)
    assert [e["target"] for e in _engines(Bundle.open(bundle).manifest.to_json())] == ["nvidia-graphics-of-tomorrow"]


@pytest.mark.parametrize(
    ("device", "modules", "arguments", "words"),
    [
        (None, ["tensorrt_rtx"], [], "this machine has no NVIDIA GPU with a driver to build plans for"),
        (ORIN, [], [], "building plans for Orin needs TensorRT, which is not installed here: pip install tensorrt-rtx-cu13"),
        (None, ["tensorrt_rtx"], ["--target", "jetson-thor"], "must be built on the device itself, with NVIDIA's tensorrt"),
        (None, [], ["--target", "rtx-30"], "needs TensorRT-RTX, which is not installed"),
        (None, ["tensorrt_rtx"], ["--target", "x86-cpu"], "x86-cpu is not a GPU: it needs no plan"),
        (None, ["tensorrt_rtx"], ["--target", "rtx-99"], "unknown target 'rtx-99'"),
        (None, ["tensorrt_rtx"], ["--target", "rtx-30", "--format", "int3"], "has no format int3: it has fp32"),
        (None, ["tensorrt_rtx"], ["--target", "rtx-20"], "has no format that runs on rtx-20"),
        (None, ["tensorrt_rtx"], ["--target", "rtx-30", "--option", "speed=3"], "unknown build option speed"),
        (None, ["tensorrt_rtx"], ["--target", "rtx-30", "--option", "refit"], "write KEY=VALUE"),
        (None, ["tensorrt_rtx"], ["--target", "rtx-30", "--option", "strip=true"], "strip is not available for rtx-30"),
        (None, ["tensorrt_rtx"], ["--target", "rtx-30", "--batches", "4,2,1"], "1 <= min <= opt <= max"),
        (None, ["tensorrt_rtx"], ["--target", "rtx-30", "-o", "."], "already exists"),
    ],
)
def test_what_cannot_be_is_one_sentence(small_bundle, monkeypatch, capsys, device, modules, arguments, words):
    monkeypatch.setattr(cuda_driver, "device", lambda: device)
    monkeypatch.setattr(build_targets, "installed", lambda: modules)
    try:
        code = main(["build", str(small_bundle), *arguments])
    except SystemExit as error:
        code = error.code
    assert code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("aigc-edge:")]
    assert words in line


def test_a_bundle_that_is_damaged_is_not_built_from(bundle, capsys):
    file = next(bundle.glob("*.onnx"))
    file.write_bytes(file.read_bytes()[:-1])
    assert main(["build", str(bundle), "--target", "rtx-30"]) == 2
    assert "bytes, the manifest says" in capsys.readouterr().err


def test_progress_nears_its_end_and_never_passes_it():
    from aigc_edge.compile.engines import share_of

    shares = []
    waiting = share_of(1, 4, shares.append)
    for elapsed in (0.0, 2.0, 9.9, 10.0, 11.0, 50.0, 1000.0):
        waiting(elapsed, 10.0)
    assert shares == sorted(shares)
    assert shares[0] == 0.25
    assert shares[3] == pytest.approx(0.25 + 0.9 * 0.25)
    assert shares[-1] <= 0.5


def test_the_whole_path_needs_neither_torch_nor_onnx(bundle, tmp_path):
    import subprocess
    import sys

    code = f"""
import sys
sys.modules["torch"] = sys.modules["onnx"] = None
from aigc_edge.cli import main
code = main(["build", {str(bundle)!r}, "--target", "jetson-thor"])
print(code, sorted({{name.split(".")[0] for name in sys.modules}} & {{"diffusers", "safetensors", "transformers"}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout.split() == ["2", "[]"]
    assert "built on the device itself" in done.stderr
