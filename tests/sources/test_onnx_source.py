"""ONNX files as sources: roles are found, odd signatures adapted, and what cannot run is refused with its reason."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import aigc_edge
from aigc_edge.bundle.bundle import Bundle
from aigc_edge.compile import compile_source
from aigc_edge.diffusion import build, sample
from aigc_edge.errors import AigcEdgeError
from aigc_edge.sources.base import SourceOptions, open_source

BETAS = {"betas": "scaled_linear"}


@pytest.fixture
def exported(denoiser, tmp_path):
    """(module, file) of a denoiser whose timestep is int64, as pipelines have it."""
    network = denoiser().eval()

    class Whole(torch.nn.Module):
        def forward(self, x, t):
            return network(x, t.float())

    batch = torch.export.Dim("b")
    torch.onnx.export(
        Whole(),
        (torch.randn(2, 3, 8, 8), torch.tensor([1, 2])),
        str(tmp_path / "net.onnx"),
        input_names=["x", "t"],
        output_names=["y"],
        dynamic_shapes=({0: batch}, {0: batch}),
        dynamo=True,
        verbose=False,
    )
    return network, tmp_path / "net.onnx"


def test_a_denoiser_generates_what_torch_does(exported, tmp_path, rng):
    network, file = exported
    options = SourceOptions(role="denoiser", prediction="v", schedule=BETAS)
    compile_source(str(file), tmp_path / "a.aigc", formats=["fp32"], samples=2, threads=1, options=options)
    manifest = Bundle.open(tmp_path / "a.aigc", verify=True).manifest.to_json()
    assert manifest["components"]["denoiser"]["schedule_constants"]["operators"] > 0  # taken out of a foreign file too
    latents = rng.standard_normal((3, 3, 8, 8), dtype=np.float32)
    with aigc_edge.open(tmp_path / "a.aigc", threads=1) as pipeline:
        found = pipeline.sample(3, latents=latents, output="float32")
    program = build({"prediction": "v", **BETAS}, "dpmpp_2m", 10)

    def whole_numbers(x, t):  # what the file does to its timestep
        return network(x, t.trunc())

    with torch.no_grad():
        wanted = sample(program, whole_numbers, torch.as_tensor(latents)).numpy()
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


def _file(path, *, time=(1, TensorProto.FLOAT), batch="b", weight=None, op="Mul", opset=20):
    """y = x · time · weight."""
    shape, kind = time
    weight = np.full((1, 3, 1, 1), 0.5, np.float32) if weight is None else weight
    nodes = [
        helper.make_node("Cast", ["t"], ["tf"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["tf", "four"], ["t4"]),
        helper.make_node("Mul", ["x", "t4"], ["scaled"]),
        helper.make_node(op, ["scaled", "w"], ["y"]),
    ]
    sizes = {0: [], 1: ["b"], "one": [1]}[shape]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 4, 4]),
        helper.make_tensor_value_info("t", kind, sizes),
    ]
    constants = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([-1, 1, 1, 1]), "four")]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3, 4, 4])]
    graph = helper.make_graph(nodes, "net", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.save(model, path)
    return path


DENOISER = SourceOptions(role="denoiser", prediction="epsilon", schedule={"betas": "linear"})


TIMES = [(0, TensorProto.INT64), (0, TensorProto.FLOAT), ("one", TensorProto.INT32), (1, TensorProto.DOUBLE)]


@pytest.mark.parametrize("time", TIMES)
def test_timesteps_of_any_kind_are_fed(tmp_path, time, rng):
    (part,) = open_source(str(_file(tmp_path / "n.onnx", time=time)), DENOISER).components()
    assert [(t.name, t.role, t.dtype, t.shape) for t in part.spec.inputs] == [
        ("x", "sample", "float32", ("N", 3, 4, 4)),
        ("t", "timestep", "float32", ("N",)),
    ]
    part.write(tmp_path / "out.onnx")
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "out.onnx", providers=["CPUExecutionProvider"])
    x = rng.standard_normal((3, 3, 4, 4), dtype=np.float32)
    (y,) = session.run(None, {"x": x, "t": np.full(3, 7, np.float32)})
    np.testing.assert_allclose(y, x * 3.5, rtol=1e-6)


def test_an_old_opset_is_brought_up(tmp_path):
    (part,) = open_source(str(_file(tmp_path / "n.onnx", opset=13)), DENOISER).components()
    part.write(tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx").opset_import[0].version == 20


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[: f.stat().st_size // 2]), "not a readable ONNX|contains no network"),
        (lambda f: f.write_bytes(b""), "contains no network"),
        (lambda f: f.write_text("not a network"), "not a readable ONNX|contains no network"),
        (lambda f: f.unlink(), "ONNX file .* does not exist"),
        (lambda f: _file(f, weight=np.full((1, 3, 1, 1), np.nan, np.float32)), "weight 'w' .* contains NaN"),
        (lambda f: _file(f, op="Frobnicate"), "'Frobnicate', which is not in ONNX opset 20"),
        (lambda f: _external(f), "weights.bin, weights of n.onnx, is missing"),
        (lambda f: _external(f, cut=True), "weights.bin, .* was cut off: it has 4 of 12 bytes"),
        (lambda f: _domain(f), "my.domain::Mul"),
        (lambda f: _file(f, batch=None), "dynamic"),
    ],
    ids=["truncated", "empty", "text", "missing", "nan", "operator", "external", "external cut", "domain", "batch"],
)
def test_a_bad_file_is_refused_with_its_reason(tmp_path, damage, words):
    file = _file(tmp_path / "n.onnx")
    if words == "dynamic":
        _fixed(file)
    else:
        damage(file)
    with pytest.raises(AigcEdgeError, match=words):
        compile_source(str(file), tmp_path / "a.aigc", options=DENOISER, samples=2)
    assert not (tmp_path / "a.aigc").exists()


def _external(file, cut=False):
    model = onnx.load(_file(file, weight=np.ones((1, 3, 1, 1), np.float32)))
    onnx.save(model, file, save_as_external_data=True, location="weights.bin", size_threshold=0)
    data = file.with_name("weights.bin")
    data.write_bytes(b"1234") if cut else data.unlink()


def _domain(file):
    model = onnx.load(file)
    model.graph.node[-1].domain = "my.domain"
    model.opset_import.append(helper.make_opsetid("my.domain", 1))
    onnx.save(model, file)


def _fixed(file):
    """A batch of 4 that is baked in."""
    model = onnx.load(_file(file, batch=4))
    model.graph.initializer.append(numpy_helper.from_array(np.array([4, 3, 4, 4]), "sizes"))
    model.graph.node[-1].output[0] = "z"
    model.graph.node.append(helper.make_node("Reshape", ["z", "sizes"], ["y"]))
    onnx.save(model, file)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (SourceOptions(), "--role"),
        (SourceOptions(role="denoiser"), "--prediction"),
        (SourceOptions(role="denoiser", prediction="eps"), "eps"),
        (SourceOptions(role="denoiser", prediction="epsilon", schedule={"betaz": 1}), "betaz"),
        (SourceOptions(role="decoder", prediction="v"), "--role denoiser"),
        (SourceOptions(role="decoder"), "role of the input 't'"),
        (SourceOptions(role="denoiser", prediction="flow", inputs={"q": "sample"}), "has no input 'q'"),
        (SourceOptions(role="denoiser", prediction="flow", inputs={"t": "class"}), "exactly one timestep"),
        (SourceOptions(role="denoiser", prediction="v", size=(8, 8)), "--size"),
    ],
)
def test_what_it_cannot_say_is_asked_for(tmp_path, options, words):
    with pytest.raises(AigcEdgeError, match=words):
        open_source(str(_file(tmp_path / "n.onnx")), options)
