"""Arguments of any type, and paths of any bytes: a result, or one sentence."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aigc_edge
from aigc_edge.bundle.bundle import Bundle
from aigc_edge.engines.base import ENGINES
from aigc_edge.errors import AigcEdgeError, BundleError

DATA = Path(__file__).parents[1] / "bundle" / "data"
FOLDER = DATA / "classes.aigc"
NAMES = (b"n\xff\xe9.aigc", "größe ×.aigc".encode(), b"a b.aigc")


def sentence(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    assert "incompatible" not in text
    return text


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("original", ["classes.aigc", "packed.aigc"])
@pytest.mark.parametrize("name", NAMES)
def test_a_path_may_be_any_bytes(tmp_path: Path, name: bytes, original: str, engine: str) -> None:
    if reason := ENGINES[engine].unavailable():
        pytest.skip(reason)
    raw = os.path.join(os.fsencode(tmp_path), name)
    (shutil.copytree if (DATA / original).is_dir() else shutil.copy)(os.fsencode(DATA / original), raw)
    with aigc_edge.open(DATA / original, engine=engine, threads=1) as opened:
        expected = opened.sample(1, seed=3)
    for path in (raw, os.fsdecode(raw), Path(os.fsdecode(raw))):
        with aigc_edge.open(path, engine=engine, threads=1) as opened:
            np.testing.assert_array_equal(opened.sample(1, seed=3), expected)
    assert Bundle.open(raw, verify=True).manifest == Bundle.open(DATA / original).manifest or original == "packed.aigc"


@pytest.mark.parametrize("name", NAMES)
def test_an_error_names_a_path_of_any_bytes(tmp_path: Path, name: bytes) -> None:
    raw = os.path.join(os.fsencode(tmp_path), name)
    with pytest.raises(BundleError, match="no bundle at") as error:
        aigc_edge.open(raw)
    sentence(error.value)
    os.mkdir(raw)
    for opening in (aigc_edge.open, Bundle.open):
        with pytest.raises(BundleError, match=r"holds no manifest\.json") as error:
            opening(raw)
        sentence(error.value)


OPENING: dict[str, list[Any]] = {
    "threads": [1.5, np.float32(1), "1", True, 0, 2**40, -1, [1], 1 + 0j, np.array([1, 2])],
    "format": [3, b"fp32", ["fp32"]],
    "engine": [None, 3, b"onnxruntime", ["torch"], {}],
    "verify": [None, 3, ["used"], b"all"],
    "device": [None, 3, ["cpu"]],
    "size": [3, "a", (1, 2, 3), (16.0, 16), ("a", "b"), np.zeros((2, 2))],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in OPENING.items() for value in values])
def test_a_wrong_argument_of_open_is_one_sentence(name: str, value: Any) -> None:
    with pytest.raises(AigcEdgeError) as error:
        aigc_edge.open(FOLDER, **({"threads": 1} | {name: value}))
    sentence(error.value)


def test_numbers_of_numpy_are_numbers() -> None:
    with aigc_edge.open(FOLDER, threads=np.int64(1)) as opened:  # type: ignore[arg-type]
        assert opened.threads == 1
        plain = opened.sample(2, seed=3, steps=4, solver="euler", classes=1, guidance_scale=2.0, guidance_rescale=0.5)
        options = {"seed": np.uint64(3), "steps": np.int32(4), "classes": np.int8(1), "guidance_scale": np.float32(2)}
        same = opened.sample(np.int16(2), solver="euler", guidance_rescale=np.float64(0.5), **options)  # type: ignore[arg-type]
        np.testing.assert_array_equal(same, plain)


ARRAYS = ["a", 3, b"x", {}, [[1], [1, 2]]]
SAMPLING: dict[str, list[Any]] = {
    "n": [1.5, "1", None, True, 2**40, 0, [1]],
    "seed": [1.5, "1", None, [1], True],
    "seeds": [[1.5], ["a"], np.array([3.0]), [1, 2], {}],
    "steps": [2.5, 0, -1, True, 1e9, "four", [4]],
    "solver": [3, b"euler", ["euler"]],
    "program": [3, b"x", ["x"]],
    "guidance_scale": ["2", float("nan"), [1], 1j, True],
    "guidance_rescale": ["a", 2.0, [0.5], 1j],
    "strength": ["a", float("nan"), [0.5], True],
    "classes": [1.5, "a", [1, 2, 3], {}],
    "output": [3, None, ["uint8"]],
    "latents": [*ARRAYS, np.zeros((1, 1, 8, 8), complex)],
    "noise": [*ARRAYS[1:], ["philox"]],
    "image": ARRAYS,
    "mask": ARRAYS,
    "conditions": ["a", 3, {"a": 1}],
    "prompt": [3, b"a", ["a", 3]],
    "negative_prompt": [3],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in SAMPLING.items() for value in values])
def test_a_wrong_argument_of_sample_is_one_sentence(name: str, value: Any) -> None:
    with aigc_edge.open(FOLDER, threads=1) as opened, pytest.raises(AigcEdgeError) as error:
        opened.sample(value) if name == "n" else opened.sample(1, **{name: value})
    sentence(error.value)


def test_arrays_of_other_kinds_are_refused(rng: np.random.Generator) -> None:
    with aigc_edge.open(FOLDER, threads=1) as opened:
        shape = tuple(int(side) for side in opened.manifest.sample_shape)
        image = rng.uniform(-1, 1, (1, *shape)).astype(np.float32)
        for name, wrong in (("latents", image.astype(complex)), ("latents", np.full((1, *shape), "a"))):
            with pytest.raises(AigcEdgeError, match="an array of real numbers") as error:
                opened.sample(1, **{name: wrong})
            sentence(error.value)
        for wrong in (np.full(shape[1:], "a"), np.full(shape[1:], 1j)):
            with pytest.raises(AigcEdgeError, match="an array of real numbers"):
                opened.sample(1, image=image, mask=wrong)
        with pytest.raises(AigcEdgeError, match="an array of real numbers"):
            opened.sample(1, image=np.full((1, *shape), "a"), strength=0.5)
        with pytest.raises(AigcEdgeError):
            opened.network(np.full((1, *shape), "a"), 1.0)
        with pytest.raises(AigcEdgeError, match="timestep is of the type str"):
            opened.network(image, "a")  # type: ignore[arg-type]
        with pytest.raises(AigcEdgeError, match="must be a Program"):
            opened.add_program(3)  # type: ignore[arg-type]
