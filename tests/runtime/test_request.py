"""`SampleRequest`: one value from the command line and `Pipeline.sample` to the native call."""

from __future__ import annotations

import ast
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_edge.errors import AigcEdgeError
from aigc_edge.runtime import request as module
from aigc_edge.runtime.request import FLAGS, SampleRequest

HEADER = Path(__file__).parents[2] / "csrc" / "include" / "aigc_edge" / "aigc_edge.h"
NAMES = [field.name for field in fields(SampleRequest)]


def test_keyword_arguments_and_flags_are_the_fields() -> None:
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))  # SampleOptions is there for type checkers alone
    (options,) = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == "SampleOptions"]
    (fields_of,) = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == "SampleRequest"]
    typed = [
        {ast.unparse(n.target): ast.unparse(n.annotation) for n in c.body if isinstance(n, ast.AnnAssign)}
        for c in (options, fields_of)
    ]
    assert typed[0] == {name: kind for name, kind in typed[1].items() if name != "count"}
    assert set(FLAGS) <= set(NAMES)


def test_the_c_struct_has_fields_of_the_same_names() -> None:
    struct = re.search(r"typedef struct ae_sample_options \{(.*?)\} ae_sample_options;", HEADER.read_text(encoding="utf-8"), re.S)
    assert struct is not None
    code = re.sub(r"/\*.*?\*/", "", struct[1], flags=re.S)
    native = set(re.findall(r"(\w+);", code)) - {"size", "num_draws", "num_conditions", "num_negative_conditions"}
    native -= {"row_by_row"}  # what progress asks for
    assert native >= {"count", "seed", "guidance_scale"}
    assert native <= set(NAMES)


def test_a_request_is_sampled_like_its_keyword_arguments(open_toy: Any) -> None:
    pipeline = open_toy()
    request = SampleRequest(count=3, seed=7, classes=[0, 3, 1], steps=4, guidance_scale=1.5)
    expected = pipeline.sample(3, seed=7, classes=[0, 3, 1], steps=4, guidance_scale=1.5)
    np.testing.assert_array_equal(pipeline.sample(request), expected)
    np.testing.assert_array_equal(pipeline.sample(request, output="float32"), pipeline.sample(replace(request, output="float32")))
    assert pipeline.sample(request, output="float32").dtype == np.float32


@pytest.mark.parametrize("per_sample", [False, True])
def test_parts_give_what_the_whole_gives(open_toy: Any, toy: Any, per_sample: bool) -> None:
    rng = np.random.default_rng()
    n = 5
    options: dict[str, Any] = {"seed": 2**64 - 2}
    if per_sample:
        image = rng.uniform(-1, 1, (n, *toy.SHAPE)).astype(np.float32)
        options = {
            "seeds": rng.integers(0, 2**64, n, np.uint64), "classes": rng.integers(-1, toy.CLASSES, n), "image": image,
            "negative_classes": rng.integers(-1, toy.CLASSES, n), "mask": rng.integers(0, 2, (n, *toy.SHAPE[1:])),
            "latents": rng.normal(size=(n, *toy.SHAPE)).astype(np.float32), "solver": "euler_ancestral", "steps": 4,
        }  # fmt: skip
        draws = len(open_toy().program(solver="euler_ancestral", steps=4).draws)
        options["noise"] = rng.normal(size=(draws, n, *toy.SHAPE)).astype(np.float32)
    request = SampleRequest(count=n, **options)
    pipeline = open_toy()
    parts = [pipeline.sample(request.part(first, min(2, n - first))) for first in range(0, n, 2)]
    np.testing.assert_array_equal(np.concatenate(parts), pipeline.sample(request))


def test_known_values_stand_for_an_image(open_toy: Any, toy: Any) -> None:
    rng, pipeline = np.random.default_rng(), open_toy()
    image = rng.uniform(-1, 1, (2, *toy.SHAPE)).astype(np.float32)
    mask = rng.integers(0, 2, toy.SHAPE[1:])
    np.testing.assert_array_equal(pipeline.sample(2, known=image, mask=mask), pipeline.sample(2, image=image, mask=mask))


def test_unknown_keyword_arguments_are_refused(open_toy: Any) -> None:
    with pytest.raises(TypeError, match=r"sample\(\) got an unexpected keyword argument 'klass'"):
        open_toy().sample(1, klass=3)


def test_the_native_check_refuses_what_sampling_refuses(open_toy: Any, toy: Any, engine: Any) -> None:
    handle, elements = open_toy()._handle, int(np.prod(toy.SHAPE))
    engine.calls.clear()
    allowed = SampleRequest(count=2, noise=None, classes=[0, 1])
    handle.check(allowed, elements)
    assert engine.calls == []
    for wrong in ({"classes": [0, 9]}, {"program": "nothing"}, {"guidance_rescale": 2.0}):
        refused = replace(allowed, **wrong)
        with pytest.raises(AigcEdgeError) as checked:
            handle.check(refused, elements)
        with pytest.raises(AigcEdgeError) as sampled:
            handle.sample(refused, elements)
        assert str(checked.value) == str(sampled.value)
