"""Real plans from TensorRT-RTX, built without a GPU: the precision is read from the build log, what cannot be is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from aigc_edge import targets
from aigc_edge.engines.formats import formats_of
from aigc_edge.engines.plans import job as tensorrt_job
from aigc_edge.engines.plans import module as tensorrt_module
from aigc_edge.engines.plans import plan as tensorrt_plan
from aigc_edge.engines.plans.cache import plans_folder
from aigc_edge.engines.plans.module import installed
from aigc_edge.engines.plans.plan import PlanRequest, build_plan
from aigc_edge.errors import AigcEdgeError

onnx = pytest.importorskip("onnx")
needs_rtx = pytest.mark.skipif("tensorrt_rtx" not in installed(), reason="tensorrt_rtx is not installed")
CARDS = {86: "rtx-30", 89: "rtx-40", 120: "rtx-50"}
CHANNELS, SIZE, FEATURES = 32, 8, 16


def _model(path, random, format, *, op="Conv", domain="", batch="N"):
    """conv3x3 → relu → 1x1 average → matrix product, in the precision `format`, with float32 inputs and outputs."""
    helper, nodes, constants = onnx.helper, [], []

    def constant(value):
        constants.append(onnx.numpy_helper.from_array(np.asarray(value), f"c{len(constants)}"))
        return constants[-1].name

    def node(kind, *inputs, out=None, **attributes):
        nodes.append(helper.make_node(kind, list(inputs), [out or f"t{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def quantised(x):
        scale, zero = constant(np.float32(0.05)), constant(np.int8(0))
        return node("DequantizeLinear", node("QuantizeLinear", x, scale, zero), scale, zero)

    def weight(*shape):
        value = random.normal(size=shape).astype(np.float32) / 8
        if format == "int8":
            integers = np.clip(np.rint(value / 0.01), -127, 127).astype(np.int8)
            return node("DequantizeLinear", constant(integers), constant(np.float32(0.01)), constant(np.int8(0)))
        return constant(value.astype(np.float16 if format == "fp16" else np.float32))

    data = node("Cast", "sample", to=10) if format == "fp16" else "sample"
    data = quantised(data) if format == "int8" else data
    x = node(op, data, weight(CHANNELS, CHANNELS, 3, 3), pads=[1, 1, 1, 1], domain=domain)
    x = node("Flatten", node("GlobalAveragePool", node("Relu", x)))
    x = node("MatMul", quantised(x) if format == "int8" else x, weight(CHANNELS, FEATURES))
    node("Cast", x, to=1, out="output")
    value = helper.make_tensor_value_info
    inputs, outputs = value("sample", 1, [batch, CHANNELS, SIZE, SIZE]), value("output", 1, [batch, FEATURES])
    graph = helper.make_graph(nodes, "net", [inputs], [outputs], constants)
    opsets = [helper.make_opsetid("", 20)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


@pytest.fixture
def request_for(tmp_path, rng):
    def make(format="fp32", sm=86, **changes):
        file = _model(tmp_path / f"net.{format}.onnx", rng, format, **changes)
        return PlanRequest(file, format, sm, CARDS.get(sm, f"sm{sm}"))

    return make


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@needs_rtx
@pytest.mark.parametrize("format", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("sm", CARDS)
def test_plans_are_built_and_run_in_the_precision_that_was_asked_for(request_for, sm, format):
    plan = build_plan(request_for(format, sm))
    report = plan.report
    assert plan.file.stat().st_size == report["plan_bytes"] > 10_000
    written = json.loads(plan.file.with_suffix(".json").read_text())
    assert len(written.pop("report_sha256")) == 64
    assert written == report
    assert plan.built_with.startswith("tensorrt_rtx 1.")
    assert (report["sm"], report["target"], report["format"], report["batches"]) == (sm, CARDS[sm], format, [1, 2, 32])
    assert report["precision"]["layers"] == {format: 2}
    assert report["precision"]["macs_share"] == {format: 1.0}
    assert report["precision"]["as_asked"] == 1.0
    assert report["expected"] == report["surprises"] == []
    macs = {layer["kind"]: layer["macs"] for layer in report["precision"]["table"]}
    assert sorted(macs.values()) == sorted([CHANNELS * CHANNELS * 9 * SIZE * SIZE, CHANNELS * FEATURES])


@needs_rtx
def test_the_cache_is_keyed_by_content(request_for, tmp_path, monkeypatch):
    request = request_for()
    first = build_plan(request)
    stamp = first.file.stat().st_mtime_ns
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("built again"))
    copy = dataclasses.replace(request, onnx=tmp_path / "other name.onnx")
    copy.onnx.write_bytes(request.onnx.read_bytes())
    assert build_plan(copy).file == first.file
    assert first.file.stat().st_mtime_ns == stamp
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first.file.write_bytes(first.file.read_bytes()[:-1])  # damaged: built anew, not trusted
    assert build_plan(request).file.stat().st_size == first.report["plan_bytes"]
    others = [
        dataclasses.replace(request, sm=89),
        dataclasses.replace(request, batches=(1, 2, 8)),
        dataclasses.replace(request, format="other"),
        dataclasses.replace(request, device="another"),
    ]
    keys = {tensorrt_plan._key(r, tensorrt_plan._digests(r.onnx)) for r in [request, *others]}
    for name in ("net.fp32.onnx.data", "net.fp32.onnx"):  # the weights of a huge model stand beside it
        (tmp_path / name).write_bytes(b"changed")
        keys.add(tensorrt_plan._key(request, tensorrt_plan._digests(request.onnx)))
    assert len(keys) == 7


def _refused(request, refusal, **limits):
    with pytest.raises(AigcEdgeError) as error:
        build_plan(request, **limits)
    folder = plans_folder()
    assert not folder.exists() or not any(folder.glob("*.plan")), "a refused plan was kept"
    assert not folder.exists() or not [p for p in folder.iterdir() if p.name.startswith(".")], "something half-written was left"
    return refusal(error.value)


@needs_rtx
def test_a_capability_that_rtx_does_not_serve(request_for, refusal):
    assert "SM87" in _refused(request_for(sm=87), refusal)
    message = _refused(request_for(sm=75), refusal)
    assert "its MatMul in fp32" in message
    assert "rtx-20" in message


@needs_rtx
def test_a_truncated_file(request_for, refusal):
    request = request_for()
    request.onnx.write_bytes(request.onnx.read_bytes()[:-500])
    assert "not a valid ONNX file" in _refused(request, refusal)


@needs_rtx
def test_an_unknown_operator(request_for, refusal):
    assert "Convolve" in _refused(request_for(op="Convolve"), refusal)


@needs_rtx
def test_a_custom_domain(request_for, refusal):
    message = _refused(request_for(domain="my.ops"), refusal)
    assert "my.ops::Conv" in message
    assert "standard" in message


@needs_rtx
def test_int8_that_does_not_run_is_refused(request_for, refusal):
    request = request_for("fp32")
    with pytest.raises(AigcEdgeError) as error:
        build_plan(dataclasses.replace(request, format="int8"))
    assert "no convolution or matrix product" in refusal(error.value)
    assert "2 in fp32" in str(error.value)


@needs_rtx
def test_a_build_without_memory_or_time(request_for, refusal):
    assert "memory limit" in _refused(request_for(), refusal, memory_gb=0.06)
    assert "took longer than 0.05 s" in _refused(request_for(), refusal, seconds=0.05)


def test_an_empty_or_missing_file(tmp_path, refusal):
    empty = tmp_path / "empty.onnx"
    empty.write_bytes(b"")
    assert "is empty" in _refused(PlanRequest(empty, "fp32", 86, "rtx-30"), refusal)
    assert "cannot read" in _refused(PlanRequest(tmp_path / "none.onnx", "fp32", 86, "rtx-30"), refusal)


@pytest.mark.parametrize("batches", [(0, 1, 2), (2, 1, 4), (1, 8, 4)])
def test_batches_out_of_order(tmp_path, refusal, batches):
    assert "min <= opt <= max" in _refused(PlanRequest(tmp_path / "x", "fp32", 86, "rtx-30", batches=batches), refusal)


def _instead(monkeypatch, code):
    """Let the builder's process run `code`, with the job as `job`."""
    head = "import json, os, sys; job = json.loads(sys.argv[1]); "
    monkeypatch.setattr(tensorrt_job, "command", lambda job: [sys.executable, "-c", head + code, json.dumps(job)])


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("os.kill(os.getpid(), 9)", "was killed (SIGKILL)"),
        ("os.kill(os.getpid(), 11)", "crashed (SIGSEGV) inside TensorRT"),
        ("sys.stderr.write('what(): std::bad_alloc'); sys.stderr.flush(); os.abort()", "memory limit of 2 GB"),
        ("raise ImportError('no such thing')", "exit code 1: ImportError: no such thing"),
        ("pass", "exit code 0"),
        ("sys.exit('Error Code 1: Cuda Runtime (out of memory)')", "ran out of GPU memory"),
        ("x = bytearray(b'x') * (2**28 + 2**20); import time; time.sleep(60)", "its memory limit of 0.25 GB"),
        ("open(job['plan'], 'w').write('half'); import time; time.sleep(60)", "took longer than 1 s"),
        ("json.dump({'error': f'limit: {job[\"memory\"]}'}, open(job['report'], 'w')); sys.exit(3)", f"limit: {2 * 2**30}"),
    ],
)
def test_a_builder_that_dies_or_says_why_not(request_for, monkeypatch, refusal, code, words):
    _instead(monkeypatch, code)
    gb = 0.25 if "0.25 GB" in words else 2
    assert words in _refused(request_for(), refusal, memory_gb=gb, seconds=1 if "longer than 1 s" in words else 120)


@needs_rtx
def test_a_plan_that_cannot_be_written(request_for, tmp_path, monkeypatch, refusal):
    code = "from aigc_edge.engines.plans import build as b; job['plan'] = '/dev/full'; sys.exit(b.main([json.dumps(job)]))"
    _instead(monkeypatch, code)
    message = _refused(request_for(), refusal)
    assert "No space left" in message
    assert "XDG_CACHE_HOME" in message


@needs_rtx
def test_layers_that_silently_run_in_another_type_are_told_before_and_named_after(request_for):
    plan = build_plan(request_for("int8", op="ConvTranspose"))
    (foreseen,) = plan.report["expected"]
    (surprise,) = plan.report["surprises"]
    assert (foreseen["operator"], foreseen["runs"], foreseen["layers"]) == ("ConvTranspose", "fp32", [surprise["layer"]])
    assert (surprise["asked"], surprise["runs"], surprise["foreseen"]) == ("int8", "fp32", True)
    macs = {layer["precision"]: layer["macs"] for layer in plan.report["precision"]["table"]}
    assert plan.report["precision"]["as_asked"] == round(macs["int8"] / sum(macs.values()), 4)


def test_what_the_target_cannot_run_is_refused_before_the_build(request_for, refusal, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a build was begun"))
    message = _refused(request_for("fp32", sm=75), refusal)
    assert "cannot be built for rtx-20: its MatMul in fp32" in message
    allowed = ", ".join(formats_of(targets.get("rtx-20")))
    assert f"choose another format ({allowed}) or another target" in message


def _sleeper(monkeypatch, tmp_path):
    """A builder that writes half a plan and its process number, and sleeps."""
    note = tmp_path / "pid"
    _instead(
        monkeypatch,
        f"open(job['plan'], 'w').write('half'); open({str(note)!r}, 'w').write(str(os.getpid())); import time; time.sleep(60)",
    )
    return note


def test_an_interruption_ends_the_builder_and_keeps_what_is_finished(request_for, monkeypatch, tmp_path):
    request, note = request_for(), _sleeper(monkeypatch, tmp_path)
    done = plans_folder() / "finished.plan"
    done.parent.mkdir(parents=True)
    done.write_bytes(b"whole")

    def waiting(elapsed, typical):
        assert 0 <= elapsed < 60
        assert typical > 0
        if note.exists() and note.read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_plan(request, waiting=waiting)
    assert [path.name for path in plans_folder().iterdir()] == ["finished.plan"]
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux ends a child with its parent")
def test_a_builder_does_not_outlive_a_killed_parent(tmp_path):
    code = f"""
import os, subprocess, sys, time
from aigc_edge.engines.plans.build import _die_with_parent
if os.fork() == 0:
    _die_with_parent()
    open({str(tmp_path / "child")!r}, "w").write(str(os.getpid()))
    time.sleep(60)
    os._exit(0)
while not os.path.exists({str(tmp_path / "child")!r}):
    time.sleep(0.01)
time.sleep(0.1)
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    child, state = int((tmp_path / "child").read_text()), "R"
    for _ in range(600):  # an orphan is reaped by another process, in its own time
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    pytest.fail(f"the builder lives on ({state})")


@needs_rtx
def test_a_plan_can_be_built_again_and_the_cache_has_a_limit(request_for):
    request = request_for()
    first = build_plan(request)
    stamp, sidecar = first.file.stat().st_mtime_ns, first.file.with_suffix(".json")
    again = build_plan(request, force=True)
    assert again.file == first.file
    assert again.file.stat().st_mtime_ns > stamp
    os.utime(sidecar, (1, 1))
    other = build_plan(request_for(), cache_gb=0)  # the same network with other weights
    assert sorted(plans_folder().iterdir()) == sorted([other.file, other.file.with_suffix(".json")])


@pytest.mark.parametrize(
    ("package", "module"), [("10.13.3.9.post1", "10.13.3.9"), ("11.4.0.106", "11.4.0.106"), ("10.3.0+l4t", "10.3.0")]
)
def test_the_version_is_that_of_the_module_not_of_its_package(monkeypatch, package, module):
    monkeypatch.setattr("importlib.metadata.version", lambda name: package)
    assert tensorrt_module.module_version("tensorrt") == module
