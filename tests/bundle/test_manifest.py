"""One corpus of manifests for both readers: what one takes the other takes, and neither fails with anything but a sentence.

`manifests/cases.json` changes one member of a whole manifest beside it; its verdict is "valid" or "invalid", for both.
"says" is a part of the message; "schema" marks what the JSON Schema refuses.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from aigc_edge import _core
from aigc_edge.bundle import manifest as module
from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.component import KINDS
from aigc_edge.bundle.manifest import Manifest
from aigc_edge.errors import AigcEdgeError

FOLDER = Path(__file__).resolve().parent / "manifests"
CASES = json.loads((FOLDER / "cases.json").read_text(encoding="utf-8"))
BASES = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json") if path.stem != "cases"}
SCHEMA = Path(module.__file__).with_name("manifest.schema.json")
VERIFY_NONE = 2


def text_of(case: dict[str, Any]) -> str:
    """The manifest of a case."""
    text = BASES[case["base"]]
    if "find" in case:
        assert case["find"] in text
        return text.replace(case["find"], case["replace"], 1) + case.get("append", "")
    if "at" not in case:
        return text
    value = json.loads(text)
    *parents, last = case["at"]
    place = value
    for key in parents:
        place = place[key]
    if case.get("remove"):
        del place[last]
    else:
        place[last] = case["value"]
    return json.dumps(value)


def write(folder: Path, text: str, base: str) -> Path:
    """A bundle of the files of a base, all zeros, with this manifest."""
    for name, entry in json.loads(BASES[base])["files"].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(entry["bytes"]))
    data = text.encode("utf-8", "surrogatepass")
    (folder / "manifest.json").write_bytes(data)
    (folder / "manifest.sha256").write_text(hashlib.sha256(data).hexdigest())
    return folder


def refused(path: Path) -> str | None:
    """What `Bundle.open` refuses a bundle with; None: it takes it."""
    try:
        Bundle.open(path)
    except AigcEdgeError as error:
        return str(error)
    return None


def native(path: Path) -> str | None:
    """What the native reader alone refuses it with."""
    try:
        _core.Handle(str(path), None, verify=VERIFY_NONE).close()
    except AigcEdgeError as error:
        return str(error)
    return None


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_both_readers_take_or_refuse(case: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path, text_of(case), case["base"])
    theirs, ours = native(path), refused(path)
    assert (ours is None) == (case["verdict"] == "valid"), ours
    assert (theirs is None) == (ours is None), theirs
    for message in (ours, theirs) if case["verdict"] == "invalid" else ():
        assert message is not None
        assert str(path) in message
        assert "\n" not in message
        assert case.get("says", "") in message


def test_the_corpus_says_something() -> None:
    verdicts = [case["verdict"] for case in CASES]
    assert len({case["name"] for case in CASES}) == len(CASES)
    assert min(verdicts.count(verdict) for verdict in ("valid", "invalid")) > 20


@pytest.mark.parametrize("base", BASES)
def test_a_manifest_is_written_as_it_was_read(base: str) -> None:
    value = json.loads(BASES[base]) | {"later": [1]}
    manifest = Manifest.from_json(value)
    assert manifest.extra == {"later": [1]}
    written = manifest.to_json()
    again = Manifest.from_json(json.loads(json.dumps(written)))
    assert {**again._asdict(), "programs": dict(again.programs)} == {**manifest._asdict(), "programs": dict(manifest.programs)}
    assert again.to_json() == written
    for name in set(value) - {"components", "programs"}:
        assert written[name] == value[name]
    for name, component in value["components"].items():
        assert {key: written["components"][name][key] for key in component} == component


def test_random_changes_are_judged_alike(tmp_path: Path) -> None:
    draw = random.Random()
    values = [None, True, -1, 0, 1, 2, 3, 2.5, 1e300, "", "N", "H", "sample", "float32", "net.onnx", [], {}, [1], ["N", 2, 3, 5]]
    for trial in range(150):
        base = draw.choice(sorted(BASES))
        value = json.loads(BASES[base])
        path = []
        for _ in range(draw.choice((1, 1, 2))):
            place = value
            while True:
                key = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
                path.append(key)
                if not isinstance(place[key], (dict, list)) or not place[key] or draw.random() < 0.15:
                    break
                place = place[key]
            if draw.random() < 0.2:
                del place[key]
            else:
                place[key] = copy.deepcopy(draw.choice(values))
        if "files" in path:
            continue
        bundle = write(tmp_path / str(trial), json.dumps(value), base)
        theirs, ours = native(bundle), refused(bundle)
        assert (theirs is None) == (ours is None), (path, theirs, ours)


def test_the_schema_knows_every_member() -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert set(schema["properties"]) == module.MEMBERS
    assert set(schema["properties"]["components"]["properties"]) == set(KINDS)


def test_the_schema_takes_what_the_readers_take() -> None:
    """It cannot say what must hold between members, so it takes more; what it refuses is marked in the corpus."""
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    for case in CASES:
        if "find" in case:  # about the text, not the value
            continue
        errors = [error.message for error in validator.iter_errors(json.loads(text_of(case)))]
        assert bool(errors) == case.get("schema", False), (case, errors)
    assert sum(case.get("schema", False) for case in CASES) > 100
