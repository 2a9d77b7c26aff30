"""Bundles are whole or not there, and what was changed is noticed."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import zipfile
from pathlib import Path

import pytest

from aigc_edge.bundle import write as bundle
from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.component import Component
from aigc_edge.bundle.manifest import FileEntry, Manifest
from aigc_edge.bundle.spec import ComponentSpec, TensorSpec
from aigc_edge.bundle.write import write_bundle
from aigc_edge.diffusion import Program
from aigc_edge.errors import AigcEdgeError, BundleError

SAMPLE = TensorSpec("sample", "sample", "float32", ("N", 1, 2, 2))
MANIFEST = Manifest(
    name="small",
    sample_shape=(1, 2, 2),
    output_shape=(1, 2, 2),
    components={"decoder": Component(ComponentSpec("decoder", (SAMPLE,), (SAMPLE,)), {"fp32": {"file": "net.onnx"}})},
    programs={"one-shot": Program("one-shot", slots=1, init_scale=1.0, rows=())},
    default_program="one-shot",
    default_format="fp32",
    extra={"note": "größe"},
)
NEW = MANIFEST._replace(name="new")


@pytest.fixture
def files(tmp_path, rng) -> dict[str, Path | bytes]:
    (tmp_path / "source.onnx").write_bytes(rng.bytes(3 * 2**20 + 17))  # more than one chunk
    return {"net.onnx": tmp_path / "source.onnx", "engines/a.plan": b"plan", "judge/card.json": b"{}", "empty": b""}


def _left(folder):
    return sorted(p.name for p in folder.iterdir() if p.name not in ("source.onnx",))


def test_what_is_written_is_read_back(tmp_path, files):
    written = write_bundle(tmp_path / "a.aigc", MANIFEST, files)
    assert Bundle.open(tmp_path / "a.aigc", verify=True).manifest == written
    assert (written.version, written.extra) == (1, {"note": "größe"})
    assert set(written.files) == set(files)
    for name, source in files.items():
        data = source if isinstance(source, bytes) else source.read_bytes()
        assert (tmp_path / "a.aigc" / name).read_bytes() == data
        assert written.files[name] == FileEntry(len(data), hashlib.sha256(data).hexdigest())
    text = (tmp_path / "a.aigc" / "manifest.json").read_bytes()
    assert json.loads(text) == written.to_json()
    assert (tmp_path / "a.aigc" / "manifest.sha256").read_text().strip() == hashlib.sha256(text).hexdigest()
    assert _left(tmp_path) == ["a.aigc"]


def test_an_existing_bundle_is_replaced_only_when_asked(tmp_path, files):
    write_bundle(tmp_path / "a.aigc", MANIFEST, files)
    with pytest.raises(AigcEdgeError, match="already exists"):
        write_bundle(tmp_path / "a.aigc", NEW, {"net.onnx": b"1"})
    assert Bundle.open(tmp_path / "a.aigc", verify=True).manifest.name == "small"
    write_bundle(tmp_path / "a.aigc", NEW, {"net.onnx": b"1"}, overwrite=True)
    assert Bundle.open(tmp_path / "a.aigc", verify=True).manifest.files.keys() == {"net.onnx"}
    assert _left(tmp_path) == ["a.aigc"]


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "a/./b", "", "a\\b", "manifest.json"])
def test_names_that_lead_out_are_refused(tmp_path, name):
    with pytest.raises(AigcEdgeError, match="stays inside"):
        write_bundle(tmp_path / "a.aigc", MANIFEST, {name: b""})
    assert _left(tmp_path) == []


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_an_interrupt_leaves_nothing(tmp_path, files, monkeypatch, failure, existing):
    if existing:
        write_bundle(tmp_path / "a.aigc", MANIFEST, files)
    store = bundle._store

    def failing(source, target):
        if target.name == "net.onnx":
            target.write_bytes(b"half")
            raise failure
        return store(source, target)

    monkeypatch.setattr(bundle, "_store", failing)
    expected = AigcEdgeError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as error:
        write_bundle(tmp_path / "a.aigc", NEW, files, overwrite=existing)
    if expected is AigcEdgeError:
        assert "no space left" in str(error.value)
    assert _left(tmp_path) == (["a.aigc"] if existing else [])
    if existing:
        assert Bundle.open(tmp_path / "a.aigc", verify=True).manifest.name == "small"


def test_numbers_that_are_no_json_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_bundle(tmp_path / "a.aigc", MANIFEST._replace(extra={"x": float("nan")}), {})
    assert _left(tmp_path) == []


def test_a_packed_bundle_is_the_same_and_packs_to_the_same_bytes(tmp_path, files):
    written = write_bundle(tmp_path / "a.aigc", MANIFEST, files)
    Bundle.open(tmp_path / "a.aigc", verify=True).pack(tmp_path / "a.zip")
    Bundle.open(tmp_path / "a.aigc", verify=True).pack(tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert Bundle.open(tmp_path / "a.zip", verify=True).manifest == written
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        names = archive.namelist()
        assert names == sorted([*files, "manifest.json", "manifest.sha256"])
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.read("net.onnx") == files["net.onnx"].read_bytes()
    with pytest.raises(AigcEdgeError, match="already exists"):
        Bundle.open(tmp_path / "a.aigc", verify=True).pack(tmp_path / "a.zip")
    with pytest.raises(AigcEdgeError, match="is a folder"):
        Bundle.open(tmp_path / "a.aigc", verify=True).pack(tmp_path / "a.aigc", overwrite=True)
    (tmp_path / "a.aigc" / "empty").write_bytes(b"!")
    with pytest.raises(BundleError, match="empty has 1 bytes"):
        Bundle.open(tmp_path / "a.aigc", verify=True).pack(tmp_path / "c.zip")
    assert _left(tmp_path) == ["a.aigc", "a.zip", "b.zip"]


def _rewrite(folder, change):
    """Change the manifest and its digest, as somebody would who means to."""
    value = json.loads((folder / "manifest.json").read_text())
    change(value)
    text = json.dumps(value).encode()
    (folder / "manifest.json").write_bytes(text)
    (folder / "manifest.sha256").write_text(hashlib.sha256(text).hexdigest())


DAMAGE = {
    "missing manifest": (lambda b: (b / "manifest.json").unlink(), "holds no manifest.json"),
    "missing digest": (lambda b: (b / "manifest.sha256").unlink(), "holds no manifest.sha256"),
    "missing file": (lambda b: (b / "net.onnx").unlink(), "net.onnx(: No such file| is missing)"),
    "truncated file": (lambda b: (b / "net.onnx").write_bytes(b"x"), "net.onnx has (1 bytes|the wrong size)"),
    "tampered file": (lambda b: (b / "engines/a.plan").write_bytes(b"plaN"), "does not match its hash"),
    "truncated manifest": (lambda b: (b / "manifest.json").write_text('{"format"'), "does not match manifest.sha256"),
    "newer": (lambda b: _rewrite(b, lambda m: m.update(version=2)), "reads up to 1; .* install a newer"),
    "foreign": (lambda b: _rewrite(b, lambda m: m.update(format="zip")), "manifest.format must be"),
    "no components": (lambda b: _rewrite(b, lambda m: m.pop("components")), "manifest.components must be present"),
    "leading out": (lambda b: _rewrite(b, lambda m: m["files"].update({"../x": {}})), "leads out"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_found_and_named(tmp_path, files, case, packed):
    write_bundle(tmp_path / "a.aigc", MANIFEST, files)
    damage, words = DAMAGE[case]
    damage(tmp_path / "a.aigc")
    path = tmp_path / "a.aigc"
    if packed:
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(p for p in (tmp_path / "a.aigc").rglob("*") if p.is_file()):
                archive.write(file, file.relative_to(tmp_path / "a.aigc"))
    with pytest.raises(BundleError) as error:
        Bundle.open(path, verify=True)
    assert re.search(words, str(error.value))
    assert "\n" not in str(error.value)


def test_no_bundle_at_all(tmp_path):
    (tmp_path / "file").write_text("text")
    for path, words in (
        (tmp_path / "none", "no bundle at"),
        (tmp_path / "file", "not a bundle"),
        (tmp_path, "holds no manifest.json"),
    ):
        with pytest.raises(BundleError, match=words):
            Bundle.open(path)
