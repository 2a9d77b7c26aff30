"""The command line that a bundle says it was compiled by."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.bundle.bundle import Bundle
from aigc_edge.cli import build_parser, main
from aigc_edge.compile import compile_source
from aigc_edge.compile.quantise import quantise_bundle
from aigc_edge.errors import AigcEdgeError
from aigc_edge.sources.generator import Generator


@pytest.fixture
def network(tmp_path: Path, rng: np.random.Generator) -> Path:
    """An ONNX file that adds a channel's bias to its sample and ignores its timestep, but for a factor of zero."""
    sample = helper.make_tensor_value_info("sample", TensorProto.FLOAT, ["N", 2, 8, 8])
    time = helper.make_tensor_value_info("t", TensorProto.FLOAT, ["N"])
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", 2, 8, 8])
    kernel = numpy_helper.from_array(rng.standard_normal((2, 2, 3, 3)).astype(np.float32), "kernel")
    nodes = [
        helper.make_node("ReduceSum", ["t"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Conv", ["sample", "kernel"], ["made"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["made", "nothing"], ["output"]),
    ]
    zero = numpy_helper.from_array(np.zeros((), np.float32), "zero")
    graph = helper.make_graph(nodes, "network", [sample, time], [output], [kernel, zero])
    path = tmp_path / "a network.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_it_parses_into_what_was_asked(network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--format", "fp32", "--format", "int8w:psnr=10", "--target", "x86-cpu", "--solver", "heun", "--steps", "3"]
    words += ["--guidance", "1", "--samples", "2", "--budget", "psnr=10", "--seed", "4", "--no-weights"]
    words += ["--role", "denoiser", "--prediction", "v", "--schedule", "betas=scaled_linear", "--schedule", "train_steps=500"]
    words += ["--input", "t=timestep"]
    bundle = tmp_path / "made.aigc"
    assert main(["compile", str(network), "-o", str(bundle), *words]) == 0, capsys.readouterr().err
    command = Bundle.open(bundle).manifest.to_json()["provenance"]["command"]
    assert str(tmp_path) not in command
    program, *said = shlex.split(command)
    assert program == "aigc-edge"
    parser = build_parser()
    told, asked = (vars(parser.parse_args(line)) for line in (said, ["compile", network.name, *words]))
    assert told == asked


def test_what_was_not_asked_goes_unsaid(generator: Generator, tmp_path: Path) -> None:
    made = compile_source(generator, tmp_path / "made.aigc", steps=2, samples=2)
    assert made.provenance["command"] == "aigc-edge compile small --format fp32 --target x86-cpu --steps 2 --samples 2"


def test_quantising_adds_its_own(generator: Generator, tmp_path: Path) -> None:
    first = compile_source(generator, tmp_path / "made.aigc", steps=2, samples=2).provenance["command"]
    for format in ("int8w:psnr=5", "int4:psnr=5"):
        told = quantise_bundle(tmp_path / "made.aigc", [format], samples=2).provenance
    assert told["command"] == first
    assert told["quantised"] == [f"aigc-edge quantise made.aigc --format {f}:psnr=5 --samples 2" for f in ("int8w", "int4")]


def test_guidance_without_conditions_is_refused_before_the_work(generator: Generator, tmp_path: Path) -> None:
    with pytest.raises(AigcEdgeError, match=r"guidance scale of 1\.5 .* small takes no classes, .* leave it out"):
        compile_source(generator, tmp_path / "made.aigc", steps=2, guidance_scale=1.5)
    assert not (tmp_path / "made.aigc").exists()
