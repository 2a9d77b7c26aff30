"""A network opens no file but its own listed weights: not from its folder, and not from the current directory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.component import Component
from aigc_edge.bundle.manifest import Manifest
from aigc_edge.bundle.references import check_references
from aigc_edge.bundle.spec import ComponentSpec, TensorSpec
from aigc_edge.bundle.write import write_bundle, zip_folder
from aigc_edge.engines.base import ENGINES, EngineSource
from aigc_edge.errors import BundleError
from aigc_edge.metrics.judge import open_classifier

onnx = pytest.importorskip("onnx")
helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT
SPEC = ComponentSpec(
    "decoder", (TensorSpec("x", "sample", "float32", ("N", 4)),), (TensorSpec("y", "sample", "float32", ("N", 4)),)
)


def tensor(name: str = "w", location: str | None = None, dims: tuple[int, ...] = (4,)) -> Any:
    """A tensor of four floats, which are in a file of this name."""
    if location is None:
        return onnx.numpy_helper.from_array(np.ones(dims, np.float32), name)
    found = onnx.TensorProto(name=name, data_type=FLOAT, dims=dims, data_location=onnx.TensorProto.EXTERNAL)
    found.external_data.add(key="offset", value="0")
    found.external_data.add(key="location", value=location)
    return found


def model(nodes: list[Any] | None = None, initializers: list[Any] | None = None, **more: Any) -> Any:
    values = [helper.make_tensor_value_info(name, FLOAT, ["N", 4]) for name in "xy"]
    nodes = nodes or [helper.make_node("Mul", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "net", values[:1], values[1:], initializers or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, **more)


def constant(location: str) -> Any:
    return helper.make_node("Constant", [], ["w"], value=tensor(location=location))


def branch(location: str) -> Any:
    inner = helper.make_graph([constant(location)], "inner", [], [helper.make_tensor_value_info("w", FLOAT, [4])])
    return helper.make_node("If", ["c"], ["w"], then_branch=inner, else_branch=inner)


def sparse(location: str) -> Any:
    found = model()
    indices = onnx.numpy_helper.from_array(np.zeros(1, np.int64), "i")
    found.graph.sparse_initializer.append(onnx.SparseTensorProto(values=tensor(location=location), indices=indices, dims=[4]))
    return found


def function(location: str) -> Any:
    body = helper.make_function("own", "F", ["x"], ["w"], [constant(location)], [helper.make_opsetid("", 17)])
    return model(functions=[body])


def training(location: str) -> Any:
    found = model()
    found.training_info.add().algorithm.initializer.append(tensor(location=location))
    return found


PLACES: dict[str, Callable[[str], Any]] = {
    "an initializer": lambda file: model(initializers=[tensor("v"), tensor(location=file)]),
    "a node": lambda file: model([constant(file)]),
    "a branch": lambda file: model([branch(file)]),
    "a branch of a branch": lambda file: model(
        [helper.make_node("If", ["c"], ["w"], then_branch=helper.make_graph([branch(file)], "g", [], []))]
    ),
    "a sparse initializer": sparse,
    "a function": function,
    "training": training,
}


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_every_reference_is_found(tmp_path: Path, place: str, as_bytes: bool) -> None:
    for location in ("net.onnx.data", "other.bin", "../net.onnx.data", "/etc/passwd", "", "location", "*/_ORT_MEM_ADDR_/*"):
        file = tmp_path / "net.onnx"
        file.write_bytes(PLACES[place](location).SerializeToString())
        network = file.read_bytes() if as_bytes else file
        if location == "net.onnx.data":
            check_references(network, "net.onnx.data", "it")
        else:
            with pytest.raises(BundleError, match="it refers to the file"):
                check_references(network, "net.onnx.data", "it")
        if location:
            with pytest.raises(BundleError, match="does not list as its weights"):
                check_references(network, None, "it")


def test_what_refers_to_nothing_is_taken(tmp_path: Path) -> None:
    named = model([helper.make_node("Mul", ["x", "location"], ["y"], name="location")], [tensor("location")])
    check_references(named.SerializeToString(), None, "it")


def test_the_order_of_the_wire_does_not_matter() -> None:
    """What protobuf reads and no library writes: the value before its key, numbers longer than needed, a graph in two parts."""
    entry = b"\x12\x03bad" + b"\x0a\x88\x00location"
    parts = b"\x2a" + bytes([len(entry) + 2]) + b"\x6a" + bytes([len(entry)]) + entry
    data = b"\x08\x08" + b"\x3a\x00" + b"\xba\x00" + bytes([len(parts)]) + parts
    assert onnx.load_from_string(data).graph.initializer[0].external_data[0].value == "bad"
    with pytest.raises(BundleError, match="refers to the file 'bad'"):
        check_references(data, None, "it")


@pytest.mark.parametrize(
    "data",
    [b"", b'<?xml version="1.0"?>\n<net name="Model0" version="11">', b"\x18\0\0\0ORTM" + bytes(32), b"PK\3\4", b"\x0a\x03abc"],
    ids=["empty", "OpenVINO", "ORT", "zip", "another protobuf"],
)
def test_what_is_no_onnx_model_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "net.onnx").write_bytes(data)
    for network in (data, tmp_path / "net.onnx"):
        with pytest.raises(BundleError, match="is not an ONNX model"):
            check_references(network, None, "it")


def test_random_bytes_end_in_a_sentence() -> None:
    rng = np.random.default_rng()
    whole = PLACES["a branch"]("bad").SerializeToString()
    said: list[str] = []
    for _ in range(300):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(0, 256)
        try:
            check_references(bytes(data[: rng.integers(0, len(data) + 1)]), None, "it")
        except BundleError as error:
            said.append(str(error))
    assert said
    assert not any("\n" in sentence for sentence in said)


def nested(depth: int) -> bytes:
    """A model whose graph has a node with a graph, and so on, around a reference."""
    data = b"location"
    for _ in range(depth):
        for field in (b"\x32", b"\x2a", b"\x0a"):  # graph of an attribute, attribute of a node, node of a graph
            size, length = len(data), bytearray()
            while size > 127:
                length.append(size & 127 | 128)
                size >>= 7
            data = field + bytes([*length, size]) + data
    size = [len(data) & 127 | 128, len(data) >> 7 & 127 | 128, len(data) >> 14]
    return b"\x08\x08\x3a" + bytes(size) + data


def damaged() -> dict[str, bytes]:
    inner = {"garbage": b"\x0a\x0a\xff\xfflocation", "truncated": b"\x0a\x7flocation"}
    models = {name: b"\x08\x08\x3a" + bytes([len(graph)]) + graph for name, graph in inner.items()}
    whole = PLACES["a branch"]("bad").SerializeToString()
    return models | {"cut": whole[:-9], "nested": nested(60)}


@pytest.mark.parametrize("damage", ["garbage", "truncated", "cut", "nested"])
def test_a_damaged_network_is_refused(tmp_path: Path, damage: str) -> None:
    """Also where the mapping of the file is still in use when the damage is noticed."""
    file = tmp_path / "net.onnx"
    file.write_bytes(damaged()[damage])
    for network in (file.read_bytes(), file):
        with pytest.raises(BundleError, match="it is not an ONNX model"):
            check_references(network, None, "it")
    for packed in (False, True):
        bundle = bundle_of(tmp_path, {"net.onnx": file}, packed=packed)
        component = Component(SPEC, {"fp32": {"file": "net.onnx"}})
        with pytest.raises(BundleError, match="is not an ONNX model"):
            ENGINES["onnxruntime"].load(EngineSource(bundle, component, "fp32"), threads=1)


def bundle_of(folder: Path, files: dict[str, Any], *, packed: bool) -> Bundle:
    manifest = write_bundle(folder / "a.aigc", Manifest(name="x"), files, overwrite=True)
    if packed:
        zip_folder(folder / "a.aigc", manifest.files, folder / "a.zip", overwrite=True)
        shutil.rmtree(folder / "a.aigc")
    return Bundle(folder / ("a.zip" if packed else "a.aigc"), manifest)


def written(folder: Path, location: str, listed: dict[str, bytes], *, packed: bool) -> Bundle:
    file = folder / "made.onnx"
    file.write_bytes(model(initializers=[tensor(location=location)]).SerializeToString())
    return bundle_of(folder, {"net.onnx": file, **listed}, packed=packed)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engine_opens_its_listed_weights_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, packed: bool
) -> None:
    if reason := ENGINES[engine].unavailable():
        pytest.skip(reason)
    weights, component = np.full(4, 3, np.float32).tobytes(), Component(SPEC, {"fp32": {"file": "net.onnx"}})
    monkeypatch.chdir(tmp_path)

    def run(bundle: Bundle) -> np.ndarray[Any, Any]:
        loaded = ENGINES[engine].load(EngineSource(bundle, component, "fp32"), threads=1)
        return loaded.evaluate({"x": np.ones((2, 4), np.float32)})["y"]

    np.testing.assert_array_equal(run(written(tmp_path, "net.onnx.data", {"net.onnx.data": weights}, packed=packed)), 3)
    for location in ("net.onnx.data", "other.bin"):
        bundle = written(tmp_path, location, {"kept.bin": weights}, packed=packed)
        for place in (tmp_path, tmp_path / "a.aigc"):  # the current directory, and beside the network
            if place.is_dir():
                (place / location).write_bytes(weights)
        with pytest.raises(BundleError, match="refers to the file"):
            run(bundle)
    listed = written(tmp_path, "other.bin", {"other.bin": weights, "net.onnx.data": weights}, packed=packed)
    with pytest.raises(BundleError, match=r"refers to the file 'other\.bin'"):  # listed, but opening hashes its own weights alone
        run(listed)


def test_a_judge_opens_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.bin").write_bytes(bytes(16))
    (tmp_path / "classifier.onnx").write_bytes(model(initializers=[tensor(location="w.bin")]).SerializeToString())
    with pytest.raises(BundleError, match="refers to the file"):
        open_classifier(tmp_path / "classifier.onnx")
