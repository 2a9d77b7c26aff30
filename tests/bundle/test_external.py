"""Weights in a file of their own: read through links, refused where they are not whole or lie elsewhere, compiled that way."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import aigc_edge
from aigc_edge.bundle import external
from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.external import read_weights
from aigc_edge.compile import compile_source
from aigc_edge.compile.quantise import quantise_bundle
from aigc_edge.errors import AigcEdgeError
from aigc_edge.sources.base import SourceOptions, open_source
from aigc_edge.sources.generator import Generator

DATA = "net.onnx.data"
ENGINES = ["onnxruntime", *(["openvino"] if importlib.util.find_spec("openvino") else [])]


@pytest.fixture
def weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"a": rng.standard_normal((4, 4)).astype(np.float32), "b": rng.standard_normal((1, 4)).astype(np.float32)}


@pytest.fixture
def path(weights: dict[str, np.ndarray], tmp_path: Path) -> Path:
    """x @ a + b with both weights in a file of their own."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])]
    nodes = [helper.make_node("MatMul", ["x", "a"], ["xa"]), helper.make_node("Add", ["xa", "b"], ["y"])]
    graph = helper.make_graph(nodes, "net", inputs, outputs, [numpy_helper.from_array(v, k) for k, v in weights.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location=DATA, size_threshold=0)
    return tmp_path / "net.onnx"


def _read(path: Path) -> dict[str, np.ndarray]:
    model = onnx.load(path, load_external_data=False)
    read_weights(model.graph.initializer, path)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("link", [None, os.link, os.symlink])
def test_links_are_followed(path: Path, weights: dict[str, np.ndarray], link, tmp_path: Path) -> None:
    place = path.parent
    if link is not None:
        place = tmp_path / "linked"
        place.mkdir()
        for name in (path.name, DATA):
            link(tmp_path / name, place / name)
    found = _read(place / path.name)
    assert set(found) == set(weights)
    for name, value in weights.items():
        np.testing.assert_array_equal(found[name], value)


def test_weights_that_are_missing_or_cut_off(path: Path) -> None:
    data = path.with_name(DATA)
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(AigcEdgeError, match=r"net.onnx.data, weights of net.onnx, was cut off: it has \d+ of \d+ bytes"):
        _read(path)
    data.unlink()
    with pytest.raises(AigcEdgeError, match=r"net.onnx.data, weights of net.onnx, is missing: copy it beside"):
        _read(path)


@pytest.mark.parametrize("location", ["../net.onnx.data", "/etc/hostname", "", "a/../../b"])
def test_weights_elsewhere_are_refused(path: Path, location: str) -> None:
    model = onnx.load(path, load_external_data=False)
    for pair in model.graph.initializer[0].external_data:
        pair.value = location if pair.key == "location" else pair.value
    path.write_bytes(model.SerializeToString())
    with pytest.raises(AigcEdgeError, match="lie outside its folder"):
        _read(path)


def test_an_onnx_source_from_a_folder_of_links(path: Path, tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    """As the caches of model hubs are."""
    place = tmp_path / "snapshot"
    place.mkdir()
    for name in (path.name, DATA):
        os.symlink(tmp_path / name, place / name)
    (part,) = open_source(str(_as_image(place / path.name)), SourceOptions(role="decoder")).parts()
    part.write(tmp_path / "out.onnx")
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "out.onnx").graph.initializer}
    assert any(value.shape == (4, 4) and np.array_equal(value, weights["a"]) for value in found.values())


def test_large_weights_of_an_onnx_source_are_read_as_they_are_used(path: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    """Through links, from a file of any name, of which the identity of the source tells."""
    weight = rng.standard_normal((4, 4096)).astype(np.float32)
    model = onnx.load(_as_image(path), load_external_data=False)
    model.graph.node.insert(0, helper.make_node("MatMul", ["z", "large"], ["x0"]))
    model.graph.node.insert(1, helper.make_node("Slice", ["x0", "start", "end", "axis"], ["x"]))
    model.graph.input[0].name = "z"
    for name, value in (("start", [0]), ("end", [4]), ("axis", [1])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    place, store = tmp_path / "snapshot", tmp_path / "store"
    place.mkdir()
    store.mkdir()
    (store / "blob").write_bytes(bytes(64) + weight.tobytes())
    large = model.graph.initializer.add(name="large", data_type=TensorProto.FLOAT, dims=weight.shape)
    large.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "odd name", "offset": 64, "length": weight.nbytes}.items():
        large.external_data.add(key=key, value=str(value))
    (store / "graph").write_bytes(model.SerializeToString())
    os.symlink(store / "graph", place / "net.onnx")
    os.symlink(store / "blob", place / "odd name")
    os.link(tmp_path / DATA, place / DATA)

    source = open_source(str(place / "net.onnx"), SourceOptions(role="decoder"))
    (part,) = source.parts()
    assert not part.model().graph.initializer[-1].raw_data, "the file is mapped, not read"
    part.write(tmp_path / "out.onnx")
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "out.onnx").graph.initializer}
    np.testing.assert_array_equal(found["large"], weight)
    before = source.identity("decoder")
    assert before == open_source(str(place / "net.onnx"), SourceOptions(role="decoder")).identity("decoder")
    (store / "blob").write_bytes(bytes(64) + (-weight).tobytes())
    assert before != source.identity("decoder")
    weight[2, 77] = np.nan
    (store / "blob").write_bytes(bytes(64) + weight.tobytes())
    with pytest.raises(AigcEdgeError, match=r"the weight 'large' of net\.onnx contains NaN"):
        open_source(str(place / "net.onnx"), SourceOptions(role="decoder"))


def _as_image(path: Path) -> Path:
    """The network in `path`, which may be a link, with its output as an image [1, 2, 2]."""
    model = onnx.load(path, load_external_data=False)
    model.graph.node.append(helper.make_node("Reshape", ["y", "shape"], ["image"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 1, 2, 2]), "shape"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 2, 2]))
    path.unlink()  # a link
    path.write_bytes(model.SerializeToString())
    return path


class Network(nn.Module):
    """F(sample [N, 3, 8, 8], timestep [N])."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.time = nn.Linear(1, 16)
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        x = self.first(sample) + self.time(timestep[:, None] / 1000)[:, :, None, None]
        return self.last(nn.functional.silu(x))


def test_a_generator_beyond_what_a_message_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network with its weights apart, from the source to a packed bundle: the same pixels as with them inside."""
    schedule = {"prediction": "epsilon", "betas": "linear"}
    decoder = nn.Sequential(nn.ConvTranspose2d(3, 4, 2, 2), nn.Tanh(), nn.Conv2d(4, 3, 1))
    source = Generator(sample=torch.zeros(1, 3, 8, 8), denoiser=Network(), decoder=decoder, schedule=schedule, name="small")
    options = {"formats": ["fp32", "int8:psnr=10"], "targets": ["x86-cpu", "jetson-orin-nano"], "steps": 3, "samples": 2}
    compile_source(source, tmp_path / "inside.aigc", **options)
    monkeypatch.setattr(external, "ABOVE", 0)
    apart = tmp_path / "apart.aigc"
    compile_source(source, apart, **options)
    quantise_bundle(apart, ["int8w:psnr=10"], samples=2)
    manifest = Bundle.open(apart, verify=True).manifest
    assert manifest.bytes_of("denoiser.fp32.onnx") > 4 * sum(weight.numel() for weight in Network().parameters())
    for name in ("denoiser.fp32.onnx", "denoiser.int8.onnx", "denoiser.int8w.onnx", "decoder.fp32.onnx"):
        assert f"{name}.data" in manifest.files
    for format in ("fp32", "int8"):
        made = []
        for bundle in (tmp_path / "inside.aigc", apart):
            with aigc_edge.open(bundle, format=format, threads=1) as pipeline:
                made.append(pipeline.sample(3, seed=1))
        np.testing.assert_array_equal(*made)
    one = tmp_path / "one.aigc"
    Bundle.open(apart, verify=True).pack(one)
    for engine in ENGINES:
        made = []
        for bundle in (apart, one):
            with aigc_edge.open(bundle, engine=engine, threads=1) as pipeline:
                made.append(pipeline.sample(3, seed=1))
        np.testing.assert_array_equal(*made)
