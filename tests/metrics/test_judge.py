"""The judge that scores: exact on a classifier whose features are known, and clear about folders that are none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.errors import AigcEdgeError, BundleError
from aigc_edge.files import sha256_of
from aigc_edge.metrics.frechet import FeatureStatistics, frechet_distance
from aigc_edge.metrics.judge import Judge, to_unit

WEIGHT = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)


@pytest.fixture
def folder(rng: np.random.Generator, tmp_path: Path) -> Path:
    """A judge of 2 × 2 × 2 images whose features are the pixels and whose logits are pixels · WEIGHT."""
    nodes = [helper.make_node("Flatten", ["images"], ["features"]), helper.make_node("MatMul", ["features", "w"], ["logits"])]

    def value(name: str, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    outputs = [value("logits", "N", 3), value("features", "N", 8)]
    graph = helper.make_graph(nodes, "judge", [value("images", "N", 2, 2, 2)], outputs, [numpy_helper.from_array(WEIGHT, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "classifier.onnx")
    np.save(tmp_path / "features.npy", rng.standard_normal((50, 8)).astype(np.float16))
    card = {"version": 1, "pretext": "class", "image_shape": [2, 2, 2], "accuracy": 0.9}
    (tmp_path / "judge.json").write_text(json.dumps(card))
    return tmp_path


@pytest.mark.parametrize("name", ["classifier.onnx", "features.npy"])
def test_a_changed_file_is_noticed(folder: Path, name: str) -> None:
    card = json.loads((folder / "judge.json").read_text())
    hashes = {file: sha256_of(folder / file) for file in ("classifier.onnx", "features.npy")}
    (folder / "judge.json").write_text(json.dumps(card | {"sha256": hashes}))
    Judge.load(folder)
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(BundleError, match="does not match its hash"):
        Judge.load(folder)


def test_score_by_its_definition(rng: np.random.Generator, folder: Path) -> None:
    images = rng.integers(0, 256, (300, 2, 2, 2), dtype=np.uint8)
    classes = rng.integers(0, 3, 300)
    judge = Judge.load(folder)
    score = judge.score(images, classes, draws=20)
    pixels = (images.transpose(0, 3, 1, 2) / 127.5 - 1).reshape(300, 8)
    real = np.load(folder / "features.npy").astype(np.float64)
    wanted = frechet_distance(FeatureStatistics.of(pixels), FeatureStatistics.of(real))
    assert score["frechet"] == pytest.approx(wanted, rel=1e-5)
    assert score["frechet_low"] <= score["frechet"] <= score["frechet_high"]
    assert score["class_accuracy"] == np.mean((pixels @ WEIGHT.astype(np.float64)).argmax(1) == classes)
    assert (score["n"], score["n_real"], score["judge_accuracy"]) == (300, 50, 0.9)
    assert "psnr" not in score
    assert judge.score(images, draws=2)["class_accuracy"] is None


def test_pixels_and_floats_score_the_same(rng: np.random.Generator, folder: Path) -> None:
    floats = rng.uniform(-1.2, 1.2, (40, 2, 2, 2)).astype(np.float32)
    pixels = np.rint(np.clip((floats + 1) / 2 * 255, 0, 255)).astype(np.uint8).transpose(0, 2, 3, 1)
    judge = Judge.load(folder)
    assert judge.score(floats, draws=2) == judge.score(pixels, draws=2)
    np.testing.assert_allclose(to_unit(floats), np.clip(floats, -1, 1), atol=1 / 255 + 1e-6)


def test_reference_from_the_same_noise(rng: np.random.Generator, folder: Path) -> None:
    images = rng.uniform(-0.9, 0.9, (12, 2, 2, 2)).astype(np.float32)
    judge = Judge.load(folder)
    same = judge.score(images, reference=images, draws=2)
    assert (same["psnr"], same["relative_l2"]) == (None, 0)
    other = judge.score(images, reference=images + np.float32(0.02), draws=2)
    assert other["psnr"] == pytest.approx(20 * np.log10(np.ptp(images) / 0.02), abs=1e-3)


def test_rotations_say_nothing_of_classes(rng: np.random.Generator, folder: Path) -> None:
    card = json.loads((folder / "judge.json").read_text())
    (folder / "judge.json").write_text(json.dumps(card | {"pretext": "rotation"}))
    images = rng.integers(0, 256, (20, 2, 2, 2), dtype=np.uint8)
    assert Judge.load(folder).score(images, np.zeros(20, int), draws=2)["class_accuracy"] is None


def test_bad_images(folder: Path) -> None:
    judge = Judge.load(folder)
    with pytest.raises(AigcEdgeError, match=r"\[2, 3, 3\] given: this judge was trained on \[2, 2, 2\]"):
        judge.score(np.zeros((4, 2, 3, 3), np.float32))
    with pytest.raises(AigcEdgeError, match="NaN"):
        judge.score(np.full((4, 2, 2, 2), np.nan, np.float32))
    with pytest.raises(AigcEdgeError, match="must be uint8"):
        judge.score(np.zeros((0, 2, 2, 2), np.float32))
    with pytest.raises(AigcEdgeError, match="3 classes for 4 images"):
        judge.score(np.zeros((4, 2, 2, 2), np.float32), [0, 1, 2], draws=2)


@pytest.mark.parametrize("damage", ["missing", "truncated", "newer", "no card", "pickle"])
def test_folders_that_are_no_judge(folder: Path, damage: str) -> None:
    if damage == "missing":
        folder = folder / "nothing"
    elif damage == "truncated":
        (folder / "classifier.onnx").write_bytes((folder / "classifier.onnx").read_bytes()[:90])
    elif damage == "newer":
        (folder / "judge.json").write_text('{"version": 2}')
    elif damage == "no card":
        (folder / "judge.json").write_text("{}")
    else:
        np.save(folder / "features.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(BundleError, match=r"train it again|update it"):
        Judge.load(folder)
