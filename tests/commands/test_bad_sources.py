"""What cannot be compiled or quantised ends in one sentence; what was interrupted resumes."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

OPTIONS = ("--role", "denoiser", "--prediction", "epsilon", "--schedule", "betas=linear")


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """y = conv(x) + t, as ONNX."""
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(3, 3, 3, 3)).astype(np.float32) * 0.2, np.array([-1, 1, 1, 1])]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Reshape", ["t", "four"], ["t4"]),
        helper.make_node("Mul", ["t4", "small"], ["ts"]),
        helper.make_node("Add", ["c", "ts"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, 8, 8]),
        helper.make_tensor_value_info("t", TensorProto.FLOAT, ["b"]),
    ]
    constants = [numpy_helper.from_array(w, n) for w, n in zip(weights, ("w", "four"), strict=True)]
    constants.append(numpy_helper.from_array(np.float32(1e-3), "small"))
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 3, 8, 8])]
    graph = helper.make_graph(nodes, "net", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("net.onnx",), ("--role",)),
        (("net.onnx", "--role", "denoiser"), ("--prediction",)),
        (("net.onnx", *OPTIONS, "--budget", "lpips=1"), ("lpips=1", "psnr=30", "frechet=1.05x")),
        (("net.onnx", *OPTIONS, "--budget", "frechet=1.1x"), ("real images", "--data")),
        (("net.onnx", *OPTIONS, "--target", "jetson-nano"), ("jetson-nano", "jetson-orin-nano")),
        (("net.onnx", *OPTIONS, "--format", "int2"), ("int2", "int4")),
        (("net.onnx", *OPTIONS, "--format", "fp8", "--target", "rtx-30"), ("rtx-30", "fp8")),
        (("net.onnx", *OPTIONS, "--schedule", "betas"), ("KEY=VALUE",)),
        (("net.onnx", *OPTIONS, "--schedule", "betaz=1"), ("betaz",)),
        (("net.onnx", *OPTIONS, "--input", "x=picture"), ("picture", "sample")),
        (("net.onnx", *OPTIONS, "--prompts", "none.txt"), ("none.txt",)),
        (("gone.onnx", *OPTIONS), ("gone.onnx",)),
        (("cut.onnx", *OPTIONS), ("cut.onnx",)),
        (("no_such_module:build",), ("no_such_module", "cannot be imported")),
        (("pipeline",), ("NoSuchPipeline", "StableDiffusionPipeline")),
        (("empty",), ("empty", "aigc-edge train")),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else None,
)
def test_a_source_that_cannot_be_compiled(cli: Any, network: Path, words: tuple[str, ...], says: tuple[str, ...]) -> None:
    (cli.folder / "empty").mkdir(exist_ok=True)
    (cli.folder / "pipeline").mkdir(exist_ok=True)
    (cli.folder / "pipeline" / "model_index.json").write_text(json.dumps({"_class_name": "NoSuchPipeline"}))
    (cli.folder / "net.onnx").write_bytes(network.read_bytes())
    (cli.folder / "cut.onnx").write_bytes(network.read_bytes()[:200])
    cli.refuse("compile", *words, says=says)


def test_a_budget_that_cannot_be_met_writes_nothing_and_says_by_how_much(cli: Any, network: Path) -> None:
    (cli.folder / "net.onnx").write_bytes(network.read_bytes())
    done = cli.run("compile", "net.onnx", *OPTIONS, "--format", "int8", "--budget", "psnr=150", "--samples", "4")
    assert done.returncode == 2
    assert "150" in done.stderr
    assert "dB" in done.stderr
    assert not (cli.folder / "net.aigc").exists()


def test_the_plan_says_what_does_not_run(cli: Any, network: Path) -> None:
    (cli.folder / "net.onnx").write_bytes(network.read_bytes())
    targets = ("--target", "rtx-30", "--target", "jetson-thor")
    done = cli.run("plan", "net.onnx", *OPTIONS, "--format", "int8", "--format", "fp8", *targets)
    assert done.returncode == 0, done.stderr
    assert "does not run" in done.stdout
    assert "least time" in done.stdout
    assert cli.left() == {"net.onnx"}
    told = json.loads(cli.run("plan", "net.onnx", *OPTIONS, "--format", "int8", "--json").stdout)
    assert told["networks"]["denoiser"]["macs"] == 3 * 3 * 9 * 64
    if platform.machine() in ("x86_64", "AMD64"):  # the default target is this machine's processor, which is measured
        assert told["figures"]["x86-cpu"]["of"].startswith("measured here, ")
        assert told["targets"]["x86-cpu"]["int8"]["seconds"] > 0
    done = cli.run(
        "plan", "net.onnx", *OPTIONS, "--format", "fp32", "--target", "arm-cpu", "--target", "x86-cpu", "--threads", "1"
    )
    assert " GB/s (measured here, 1 thread)" in done.stdout
    assert "run this command on the target to measure them" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "\n  fp32  " in done.stdout
    cli.refuse("plan", "net.onnx", *OPTIONS, "--format", "int2", says=("int2",))


def test_an_interrupted_compilation_goes_on(cli: Any, network: Path) -> None:
    (cli.folder / "net.onnx").write_bytes(network.read_bytes())
    slow = """
import time
def evaluate_formats(work, samples):
    print("evaluating", flush=True)
    time.sleep(60)
import aigc_edge.compile
aigc_edge.compile.evaluate_formats = evaluate_formats
"""
    words = ("compile", "net.onnx", *OPTIONS, "--format", "fp32", "--format", "int8:psnr=5,aim=0", "--samples", "4")
    with subprocess.Popen(
        cli.command(*words, before=slow), cwd=cli.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as job:
        assert job.stdout is not None
        assert job.stderr is not None
        assert job.stdout.readline() == b"evaluating\n"
        job.send_signal(signal.SIGINT)
        said = job.stderr.read().decode()
        assert job.wait(timeout=120) == 130
    assert "run the same command to resume" in said
    assert cli.left() == {"net.onnx"}
    again = """
from aigc_edge.compress.format import FORMATS
def convert(*_, **__):
    raise RuntimeError("it was converted twice")
FORMATS["int8"].convert = convert
"""
    done = cli.run(*words, before=again)
    assert done.returncode == 0, done.stderr
    assert (cli.folder / "net.aigc" / "manifest.json").is_file()
    assert os.listdir(Path(os.environ["XDG_CACHE_HOME"]) / "aigc-edge" / "compile") == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits")
def test_no_space_for_the_bundle(cli: Any, network: Path) -> None:
    (cli.folder / "net.onnx").write_bytes(network.read_bytes())
    full = """
import errno
import aigc_edge.bundle.write as bundle
def store(source, target):
    raise OSError(errno.ENOSPC, "No space left on device")
bundle._store = store
"""
    words = ("compile", "net.onnx", *OPTIONS, "--format", "fp32", "--samples", "2")
    done = cli.run(*words, before=full)
    assert done.returncode == 2
    assert "no space left" in done.stderr
    assert cli.left() == {"net.onnx"}
