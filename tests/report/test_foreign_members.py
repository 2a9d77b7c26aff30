"""Manifests and cards with valid hashes and members of any type: they are described, or refused in one sentence."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aigc_edge.bundle.bundle import Bundle
from aigc_edge.errors import AigcEdgeError
from aigc_edge.report.layer_page import write
from aigc_edge.report.summary import describe, render

DATA = Path(__file__).parents[1] / "bundle" / "data"
VALUES: list[Any] = [None, True, 1e300, -1, 2.5, "x", [], {}, [1], {"a": 1}, [None], "remove it"]
PLAN = {
    "engine": "tensorrt", "format": "fp32", "target": "rtx-40", "file": "x.plan", "sm": 89, "built_with": "tensorrt_rtx 1",
    "batches": [1, 2, 3], "precision": {"layers": {"int8": 3}, "as_asked": 0.5}, "expected": [{}], "surprises": ["a"],
}  # fmt: skip
SPLIT = {"operators": 3, "of_operators": 4, "weights": 2, "of_weights": 3}
FIGURES = {"psnr": None, "frechet": 1.0, "n": 4, "sizes": {"8x8": {"n": 2, "psnr": 3.0}}}
NODE = {"format": "int8", "error": 0.1, "bytes": 3, "macs": 4, "node": "y"}
REPORT = {
    "psnr": 30.0, "budget_psnr": 20.0, "rows": [{"relative_l2": 0.1}, {"relative_l2": 0.2}], "bytes": 3, "source_bytes": 9,
    "estimators": {"a": 3.0}, "estimator": "a", "nodes": {"one": NODE, "two": NODE},
    "ranges": {"t": {"low": -1.0, "high": 1.0, "rows": {"0": [-1.0, 0.5]}}},
}  # fmt: skip
CARD = {"int8": {"compression": {"decoder": REPORT}, "frechet": 1.0, "frechet_low": 0.5, "frechet_high": 1.5, "n": 9}}


def whole(name: str) -> dict[str, Any]:
    """The manifest of a stored bundle with every optional member that is shown."""
    value: dict[str, Any] = json.loads((DATA / name / "manifest.json").read_text(encoding="utf-8"))
    for component in value["components"].values():
        component |= {"engines": [PLAN], "schedule_constants": SPLIT}
        component["weights"] = {"file": next(iter(value["files"])), "model": {"a": 1}}
    judge = {"classifier": "a", "features": "b", "accuracy": 0.9}
    return value | {"quality": {"fp32": FIGURES}, "judge": judge, "provenance": {"data": "x", "list": [1]}}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    for key in value if isinstance(value, dict) else range(min(len(value), 2)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def changed(value: dict[str, Any], path: tuple[Any, ...], new: Any) -> dict[str, Any]:
    result = copy.deepcopy(value)
    place: Any = result
    for key in path[:-1]:
        place = place[key]
    if new == "remove it":
        del place[path[-1]]
    else:
        place[path[-1]] = new
    return result


def store(folder: Path, name: str, manifest: dict[str, Any], card: Any = None) -> Path:
    folder.mkdir()
    for file in (DATA / name).iterdir():
        if not file.name.startswith("manifest."):
            os.symlink(file, folder / file.name)
    if card is not None:
        data = json.dumps(card).encode()
        (folder / "quality.json").unlink(missing_ok=True)  # a link to the stored one
        (folder / "quality.json").write_bytes(data)
        manifest = copy.deepcopy(manifest)
        manifest["files"]["quality.json"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    text = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(text)
    (folder / "manifest.sha256").write_text(hashlib.sha256(text).hexdigest())
    return folder


@pytest.mark.parametrize("name", ["classes.aigc", "text.aigc", "gan.aigc"])
def test_a_manifest_is_described_or_refused(tmp_path: Path, name: str) -> None:
    value, draw = whole(name), random.Random()
    assert "50%" in render(Bundle.open(store(tmp_path / "whole", name, value)).manifest)
    shown = ("quality", "components", "judge", "provenance", "family", "name", "tools", "created", "targets", "notes", "text")
    chosen = [path for path in places(value) if path[0] in shown]
    for index, path in enumerate(draw.sample(chosen, min(len(chosen), 60))):
        bundle = store(tmp_path / str(index), name, changed(value, path, draw.choice(VALUES)))
        for act in (lambda b=bundle: render(Bundle.open(b).manifest), lambda b=bundle: describe(b)):
            try:
                act()
            except AigcEdgeError as error:
                said = str(error)
                assert "\n" not in said, path


MEMBERS = [
    (("family",), "remove it"), (("components", "decoder", "weights"), 1e300), (("provenance",), True),
    (("components", "decoder", "schedule_constants", "weights"), "x"),
    (("components", "decoder", "engines", 0, "precision"), [1]),
    (("components", "decoder", "engines", 0, "precision", "as_asked"), "x"), (("quality", "fp32", "sizes"), [1]),
    (("quality", "fp32", "sizes", "8x8"), True), (("quality", "fp32"), 3), (("judge", "accuracy"), {}), (("tools",), [1]),
]  # fmt: skip


@pytest.mark.parametrize(("path", "new"), MEMBERS, ids=[".".join(map(str, path)) for path, _ in MEMBERS])
def test_members_of_the_wrong_type(tmp_path: Path, path: tuple[Any, ...], new: Any) -> None:
    bundle = store(tmp_path / "a", "gan.aigc", changed(whole("gan.aigc"), path, new))
    try:
        assert render(Bundle.open(bundle).manifest)
    except AigcEdgeError as error:
        said = str(error)
        assert path[-1] in said or path[-2] in said


def test_a_card_is_shown_or_refused(tmp_path: Path) -> None:
    value, draw = whole("gan.aigc"), random.Random()
    write(store(tmp_path / "whole", "gan.aigc", value, CARD), tmp_path / "page.html")
    assert "<svg" in (tmp_path / "page.html").read_text(encoding="utf-8")
    refused = 0
    for index, path in enumerate(places(CARD)):
        for new in draw.sample(VALUES, 3):
            bundle = store(tmp_path / f"{index} {VALUES.index(new)}", "gan.aigc", value, changed(CARD, path, new))
            try:
                write(bundle, tmp_path / "page.html")
            except AigcEdgeError as error:
                refused += "quality card" in str(error) and "\n" not in str(error)
    assert refused > 5
    for broken in ([], 3, "x", None):
        bundle = store(tmp_path / f"broken {broken}", "gan.aigc", value, broken if broken is not None else [None])
        with pytest.raises(AigcEdgeError, match="quality card"):
            write(bundle, tmp_path / "page.html")
