"""Small networks of the forms in which ONNX generators are published, compiled and compared with the files themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import aigc_edge
from aigc_edge.compile import compile_source
from aigc_edge.errors import AigcEdgeError
from aigc_edge.sources.base import SourceOptions, open_source

F, I64 = TensorProto.FLOAT, TensorProto.INT64
SHAPE = ["N", 1, 8, 8]
NODES = {
    # D(x, sigma) = c_skip x + c_out conv(c_in x) + difficulty, with EDM's coefficients for data of deviation 0.5
    "consistency": [
        ("Mul", ["sigma", "sigma"], "s2"),
        ("Add", ["s2", "quarter"], "total"),
        ("Sqrt", ["total"], "norm"),
        ("Div", ["quarter", "total"], "skip"),
        ("Div", ["sigma", "norm"], "out"),
        ("Reshape", ["norm", "four"], "norm4"),
        ("Reshape", ["skip", "four"], "skip4"),
        ("Reshape", ["out", "four"], "out4"),
        ("Reshape", ["difficulty", "four"], "difficulty4"),
        ("Div", ["noisy", "norm4"], "scaled"),
        ("Conv", ["scaled", "w"], "f"),
        ("Mul", ["f", "out4"], "fo"),
        ("Mul", ["noisy", "skip4"], "xs"),
        ("Add", ["fo", "xs"], "sum"),
        ("Add", ["sum", "difficulty4"], "denoised"),
    ],
    "classes": [
        ("Gather", ["table", "label"], "row"),
        ("Reshape", ["row", "four"], "row4"),
        ("Add", ["noisy", "row4"], "styled"),
        ("Conv", ["styled", "w"], "c"),
        ("Tanh", ["c"], "denoised"),
    ],
}
INPUTS = {
    "consistency": {"noisy": (F, SHAPE), "sigma": (F, ["N"]), "difficulty": (F, ["N"])},
    "classes": {"noisy": (F, SHAPE), "label": (I64, ["N"])},
}
CONSISTENCY = SourceOptions(role="denoiser", prediction="denoised", schedule={"time": "sigma", "sigma_max": 10.0})


@pytest.fixture
def file(tmp_path: Path, rng: np.random.Generator, request: pytest.FixtureRequest) -> Path:
    kind = request.param
    nodes = [
        helper.make_node(op, inputs, [output], **({"pads": [1, 1, 1, 1]} if op == "Conv" else {}))
        for op, inputs, output in NODES[kind]
    ]
    constants = {"w": rng.normal(0, 0.3, (1, 1, 3, 3)), "quarter": np.array(0.25), "table": rng.normal(size=(3, 1))}
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    tensors.append(numpy_helper.from_array(np.array([-1, 1, 1, 1]), "four"))
    inputs = [helper.make_tensor_value_info(name, *value) for name, value in INPUTS[kind].items()]
    graph = helper.make_graph(nodes, kind, inputs, [helper.make_tensor_value_info("denoised", F, SHAPE)], tensors)
    path = tmp_path / f"{kind}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def run(file: Path, **inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return np.asarray(
        session.run(None, {k: np.asarray(v, np.int64 if k == "label" else np.float32) for k, v in inputs.items()})[0]
    )


@pytest.mark.parametrize("file", ["consistency"], indirect=True)
def test_a_consistency_model_with_sigma_and_a_condition(file: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    np.save(tmp_path / "difficulty.npy", rng.uniform(0, 1, 5).astype(np.float32))
    options = SourceOptions(
        **{name: getattr(CONSISTENCY, name) for name in ("role", "prediction", "schedule")},
        inputs={"difficulty": str(tmp_path / "difficulty.npy")},
    )
    compiled = {"formats": ["fp32", "int8:psnr=5,aim=0,rank=false"], "samples": 2, "threads": 1, "options": options}
    compile_source(file, tmp_path / "a.aigc", solver="consistency", steps=1, **compiled)
    latents, difficulty = rng.standard_normal((3, 1, 8, 8), dtype=np.float32), np.float32([0.1, 0.5, 0.9])
    with aigc_edge.open(tmp_path / "a.aigc", threads=1) as pipeline:
        found = pipeline.sample(3, latents=latents, conditions={"difficulty": difficulty}, output="float32")
    expected = run(file, noisy=10 * latents, sigma=np.full(3, 10.0), difficulty=difficulty)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("file", ["consistency"], indirect=True)
def test_several_noise_levels_are_listed(file: Path) -> None:
    schedule = {"kind": "table", "sigmas": [10.0, 3.0, 0.5, 0.0], "timesteps": [10.0, 3.0, 0.5]}
    options = SourceOptions(role="denoiser", prediction="denoised", schedule=schedule, inputs={"difficulty": "0.5"})
    source = open_source(str(file), options)
    programs = source.programs("consistency", 3, None)
    assert [row.timestep for row in programs[0].rows] == [10.0, 3.0, 0.5]
    assert source.timesteps() == (0.5, 3.0, 10.0)
    assert [program.name for program in source.programs(None, None, None)] == ["dpmpp_2m-3"], "as many steps as it lists"
    (part,) = source.components()
    assert [tensor.role for tensor in part.spec.inputs] == ["sample", "timestep"]


@pytest.mark.parametrize("file", ["classes"], indirect=True)
def test_a_decoder_with_classes_is_quantised(file: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    options = SourceOptions(role="decoder", classes=3)
    compile_source(
        file, tmp_path / "a.aigc", formats=["fp32", "int8:psnr=5,aim=0,rank=false"], samples=2, threads=1, options=options
    )
    latents, labels = rng.standard_normal((3, 1, 8, 8), dtype=np.float32), np.array([2, 0, 1])
    with aigc_edge.open(tmp_path / "a.aigc", threads=1) as pipeline:
        found = pipeline.sample(3, latents=latents, classes=labels, output="float32")
    np.testing.assert_allclose(found, run(file, noisy=latents, label=labels), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("file", ["consistency"], indirect=True)
def test_a_decoder_beside_a_condition_is_refused_with_what_to_do(file: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "difficulty.npy", np.zeros(2, np.float32))
    inputs = {"sigma": "80", "difficulty": str(tmp_path / "difficulty.npy")}
    with pytest.raises(AigcEdgeError, match=r"takes difficulty beside the sample, as only a denoiser does: set a constant"):
        open_source(str(file), SourceOptions(role="decoder", inputs=inputs))


@pytest.mark.parametrize("file", ["consistency"], indirect=True)
def test_a_refusal_needs_no_torch(file: Path) -> None:
    """Which takes seconds to import."""
    code = (
        "import sys; from aigc_edge.errors import AigcEdgeError; from aigc_edge.sources.base import SourceOptions, open_source\n"
        f"try: open_source({str(file)!r}, SourceOptions(role='decoder'))\n"
        "except AigcEdgeError as error: print(error)\n"
        "print(sorted({'torch', 'onnx_ir', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    said = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert said[0].startswith("the role of the input 'sigma' of consistency.onnx cannot be inferred")
    assert said[1] == "[]"
