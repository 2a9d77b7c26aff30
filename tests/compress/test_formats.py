"""Every format on every kind of network: runs in onnxruntime, errs no more than its arithmetic explains, leaves whole files."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from aigc_edge.bundle import external
from aigc_edge.compress.calibration.observers import ESTIMATORS
from aigc_edge.compress.calibration.trajectory import Record
from aigc_edge.compress.format import FORMATS, Format, parse
from aigc_edge.compress.formats.int8 import Int8
from aigc_edge.compress.graphs import graph
from aigc_edge.config import names
from aigc_edge.errors import AigcEdgeError

VARIANTS = ["int8:engine=tensorrt", "int8:engine=tensorrt,floats=fp16"]
EVERYTHING = ["fp32", "fp16", "int8", *VARIANTS]  # every other format: test_format_conformance.py


def _format(text: str) -> Format:
    """Without a budget and without ranking: the networks here are random, and need no search."""
    known = names(FORMATS[text.split(":")[0]])
    free = [f"{name}={value}" for name, value in (("psnr", 0), ("aim", 0), ("rank", "false")) if name in known]
    return parse(text + (":" if ":" not in text else ",") + ",".join(free))


def _convert(net: Any, text: str, folder: Path, n: int = 6) -> tuple[Path, dict]:
    out = folder / "converted.onnx"
    return out, _format(text).convert(net.write(folder), out, net.calibration(n)).to_json()


@pytest.mark.parametrize("text", EVERYTHING)
def test_conformance(net: Any, text: str, tmp_path: Path) -> None:
    """The file is standard ONNX, and onnxruntime computes from it what the ONNX reference implementation does."""
    out, report = _convert(net, text, tmp_path)
    onnx.checker.check_model(out, full_check=True)
    model = onnx.load(out)
    assert {node.domain for node in model.graph.node} == {""}
    assert {e.key: e.value for e in model.metadata_props}.get("format", "fp32") == text.split(":")[0] == report["format"]
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["bytes"] == out.stat().st_size
    assert report["source_bytes"] == (tmp_path / f"{net.name}.onnx").stat().st_size
    types = [v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)]
    assert types == [v.type.tensor_type.elem_type for v in (*net.model.graph.input, *net.model.graph.output)]

    records: list[Record] = []
    original = graph.Network(net.model)
    net.calibration(3, seed=5).run(original, records)
    inputs = records[0].inputs
    reference = ReferenceEvaluator(model).run(None, inputs)[0].astype(np.float64)
    made, wanted = (network(inputs)[0] for network in (graph.Network(out, exact=True), original))
    error = np.linalg.norm(made - wanted)
    if "fp16" in text:  # onnxruntime rounds to half where the standard says, or less often
        assert error <= 2 * np.linalg.norm(reference - wanted)
    else:  # two implementations differ by rounding, which is far below what a coarser format changes
        assert np.linalg.norm(made - reference) <= 1e-5 * np.linalg.norm(wanted) + 0.3 * error
    # onnxruntime's own fusions are for the int8 graph that was written for it, as its engine opens the files.
    fused = text.split(":")[0] == "int8" and "engine=" not in text
    network = graph.Network(out, exact=not fused)
    together = network(inputs)[0]
    assert np.linalg.norm(together - wanted) <= 1.5 * error + 1e-5 * np.linalg.norm(wanted)
    batches = [network({name: value[i : i + 1] for name, value in inputs.items()})[0] for i in range(2)]
    assert np.linalg.norm(np.concatenate(batches) - together[:2]) <= 1e-5 * np.linalg.norm(wanted) + 0.3 * error


@pytest.mark.parametrize("name", ["conv", "chain"])
@pytest.mark.parametrize("engine", ["onnxruntime", "tensorrt"])
def test_int8_errs_within_its_theory(rng: np.random.Generator, make: dict, name: str, engine: str, tmp_path: Path) -> None:
    """On the calibration data itself and with all of its range: |Δ(w x)| ≤ Σ |w| s_x/2 + Σ |x| s_w/2 + s_y/2 for every layer."""
    net = make[name](rng)
    calibration = net.calibration(8)
    out = tmp_path / "int8.onnx"
    options = Int8(engine=engine, estimator="minmax", psnr=0, aim=0, rank=False)
    options.convert(net.write(tmp_path), out, calibration)
    x = calibration.split(4)[0].latents  # the half that was calibrated with
    made, wanted = graph.Network(out, exact=True)({"x": x})[0], graph.Network(net.model)({"x": x})[0]
    constants, weights = graph.initialisers(onnx.load(out)), graph.initialisers(net.model)
    bound, largest = 0.0, float(np.abs(x).max())  # of the error and of the values in front of the next layer
    for layer in graph.layers(net.model):
        weight = np.abs(weights[layer.weight]).reshape(len(weights[layer.weight]), -1).astype(np.float64)
        step = constants[f"{layer.weight}_scale"].astype(np.float64) / 2
        bound += float(constants[f"{layer.input}_scale"]) / 2
        bound = float((weight.sum(1) * bound + weight.shape[1] * step * (largest + bound)).max())
        largest = float((weight.sum(1) * largest + np.abs(weights[layer.bias or ""])).max())
        if engine == "onnxruntime":
            bound += float(constants[f"{layer.output}_scale"]) / 2
    error = np.abs(made - wanted).max()
    assert 0 < error <= bound


def test_fp16_errs_like_torch_in_half(rng: np.random.Generator, make: dict, tmp_path: Path) -> None:
    """At most twice the error of the module itself in half precision, both against float64."""
    net = make["unet"](rng)
    out, report = _convert(net, "fp16", tmp_path)
    module = make["unet_module"]()
    sample = torch.from_numpy(rng.standard_normal((8, 1, 8, 8)).astype(np.float32))
    timestep = torch.from_numpy(rng.standard_normal(8).astype(np.float32))
    classes = torch.from_numpy(rng.integers(0, 4, 8))
    with torch.no_grad():
        exact = copy.deepcopy(module).double()(sample.double(), timestep.double(), classes).numpy()
        half = copy.deepcopy(module).half()(sample.half(), timestep.half(), classes).double().numpy()
    made = graph.Network(out)({"sample": sample.numpy(), "timestep": timestep.numpy(), "class_labels": classes.numpy()})[0]
    assert np.linalg.norm(made - exact) <= 2 * np.linalg.norm(half - exact)
    assert report["psnr"] > 40
    assert report["bytes"] < 0.5 * report["source_bytes"] + 30_000  # and the graph itself


def test_sizes_on_disk(rng: np.random.Generator, make: dict, tmp_path: Path) -> None:
    """Weights count for 4, 2 and 1 bytes each; what else there is does not grow with them."""
    net = make["conv"](rng, 64, 96)
    weights = 96 * 64 * 9
    for text, each in (("fp32", 4), ("fp16", 2), ("int8", 1), ("int8:engine=tensorrt", 1)):
        _, report = _convert(net, text, tmp_path)
        assert weights * each <= report["bytes"] <= weights * each + 3000, text


def test_int8_report(rng: np.random.Generator, make: dict, tmp_path: Path) -> None:
    net = make["unet"](rng)
    told: list[tuple[str, int, int]] = []
    calibration = net.calibration(6)
    report = (
        Int8(psnr=0, aim=0)
        .convert(net.write(tmp_path), tmp_path / "int8.onnx", calibration, progress=lambda *args: told.append(args))
        .to_json()
    )
    names = [layer.name for layer in graph.layers(net.model)]
    assert list(report["nodes"]) == names
    assert all(node["format"] == "int8" and node["error"] >= 0 for node in report["nodes"].values())
    assert report["estimators"][report["estimator"]] == max(report["estimators"].values()) == report["psnr"]
    assert len(report["rows"]) == len(net.program.rows)
    assert report["trials"] == len(names) + len(ESTIMATORS)
    assert [entry for entry in told if entry[0] == "rank layers"][-1][1:] == (len(names), len(names))
    # Its figures are true: measured again, on the held-out half.
    _, held = calibration.split(3)
    made, wanted = (held.run(graph.Network(path)) for path in (tmp_path / "int8.onnx", tmp_path / "unet.onnx"))
    assert report["psnr"] == pytest.approx(10 * np.log10(4 / np.mean((made - wanted) ** 2)), abs=0.01)


@pytest.mark.parametrize("text", ["fp32", "fp16", "int8"])
def test_interrupted_nothing_is_left(rng: np.random.Generator, make: dict, text: str, tmp_path: Path) -> None:
    net = make["products"](rng)
    source = net.write(tmp_path)
    stages: list[str] = []
    format = parse(text + ":psnr=0,aim=0" if text == "int8" else text)
    format.convert(source, tmp_path / "whole.onnx", net.calibration(), progress=lambda *args: stages.append(str(args)))
    (tmp_path / "whole.onnx").unlink()
    for stage in stages[:-1]:

        def interrupt(*args: Any, last: str = stage) -> None:
            if str(args) == last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            format.convert(source, tmp_path / "out.onnx", net.calibration(), progress=interrupt)
        assert [path.name for path in tmp_path.iterdir()] == [source.name]


def test_huge_networks_keep_their_weights_apart(
    rng: np.random.Generator, make: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = make["conv"](rng, 8, 16)
    x = rng.standard_normal((3, 8, 6, 7)).astype(np.float32)
    wanted = graph.Network(net.model)({"x": x})[0]
    path = tmp_path / "huge.onnx"
    with monkeypatch.context() as change:
        change.setattr(external, "ABOVE", 64)
        graph.write(net.model, path)
    assert {p.name for p in tmp_path.iterdir()} == {"huge.onnx", "huge.onnx.data"}
    assert graph.size_of(path) == sum(p.stat().st_size for p in tmp_path.iterdir())
    np.testing.assert_array_equal(graph.Network(path)({"x": x})[0], wanted)
    np.testing.assert_array_equal(graph.Network(graph.load(path))({"x": x})[0], wanted)  # the message in memory is whole
    graph.write(graph.load(path), path)
    assert {p.name for p in tmp_path.iterdir()} == {"huge.onnx"}


def test_formats_from_text() -> None:
    assert {"fp32", "fp16", "int8"} <= set(FORMATS)
    assert parse("int8") == Int8()
    assert parse("int8:engine=tensorrt, psnr=35,rank=false") == Int8(engine="tensorrt", psnr=35.0, rank=False)
    with pytest.raises(AigcEdgeError, match=r"unknown format 'int7': choose one of .*int8"):
        parse("int7")
    with pytest.raises(AigcEdgeError, match=r"unknown int8 options speed: choose from .*engine"):
        parse("int8:speed=3")
    with pytest.raises(AigcEdgeError, match="engine is 'tvm': choose one of onnxruntime, tensorrt, openvino"):
        parse("int8:engine=tvm")
    with pytest.raises(AigcEdgeError, match="'fast' is no option"):
        parse("int8:fast")


def test_bad_input(rng: np.random.Generator, make: dict, tmp_path: Path) -> None:
    net = make["conv"](rng)
    path = net.write(tmp_path)
    with pytest.raises(AigcEdgeError, match="needs calibration data"):
        Int8().convert(path, tmp_path / "out.onnx")
    with pytest.raises(AigcEdgeError, match="at least 2"):
        Int8().convert(path, tmp_path / "out.onnx", net.calibration(1))
    with pytest.raises(AigcEdgeError, match=r"ONNX file .* does not exist"):
        Int8().convert(tmp_path / "none.onnx", tmp_path / "out.onnx", net.calibration())
    (tmp_path / "bad.onnx").write_bytes(path.read_bytes()[:100])
    for text in ("fp32", "fp16", "int8"):
        with pytest.raises(AigcEdgeError, match="not a readable ONNX file"):
            parse(text).convert(tmp_path / "bad.onnx", tmp_path / "out.onnx", net.calibration())
    assert not (tmp_path / "out.onnx").exists()


def test_weights_that_a_session_maps_are_the_same(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large networks are handed over as a graph and a file of weights: bit for bit what the message gives, and left as it was."""
    records: list[Record] = []
    before = net.model.SerializeToString()
    wanted = net.calibration(2).run(graph.Network(net.model), records)
    shapes = graph.types_and_shapes(net.model)
    monkeypatch.setattr(graph, "MAPPED_ABOVE", 0)
    monkeypatch.setattr(graph, "SMALL", 65)  # bytes: shapes are below, the weights here above
    assert graph.types_and_shapes(net.model) == shapes
    assert shapes == graph.types_and_shapes(onnx.shape_inference.infer_shapes(net.model, data_prop=True))
    np.testing.assert_array_equal(net.calibration(2).run(graph.Network(net.model)), wanted)
    assert net.model.SerializeToString() == before
