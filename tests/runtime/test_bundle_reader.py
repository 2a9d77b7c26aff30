"""The native reader trusts no byte that it has not checked, and says in a sentence what is wrong."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zipfile

import numpy as np
import pytest

from aigc_edge.bundle.bundle import Bundle
from aigc_edge.errors import AigcEdgeError, BundleError
from aigc_edge.runtime import pipeline


def open_toy_at(path, **options):
    return pipeline.open(path, engine="analytic", **options)


def rewrite(path, change):
    """Change the manifest and make its digest fit again."""
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    text = json.dumps(manifest).encode()
    (path / "manifest.json").write_bytes(text)
    (path / "manifest.sha256").write_text(hashlib.sha256(text).hexdigest())


@pytest.fixture
def bundle(engine, make_bundle):
    return make_bundle()


def test_a_packed_bundle_gives_the_same_samples(bundle, tmp_path):
    expected = open_toy_at(bundle).sample(3, seed=5)
    packed = tmp_path / "packed.aigc"
    Bundle.open(bundle, verify=True).pack(packed)
    np.testing.assert_array_equal(open_toy_at(packed, verify="all").sample(3, seed=5), expected)


def test_files_come_checked(bundle):
    opened = open_toy_at(bundle)
    assert opened._handle.file("net.onnx") == (bundle / "net.onnx").read_bytes()
    with pytest.raises(AigcEdgeError, match=r"no file ghost"):
        opened._handle.file("ghost")


@pytest.mark.parametrize("verify", ["used", "all", "none"])
def test_a_changed_file_is_refused_unless_trusted(bundle, verify):
    data = bytearray((bundle / "net.onnx").read_bytes())
    data[3] ^= 1
    (bundle / "net.onnx").write_bytes(data)
    if verify == "none":
        assert open_toy_at(bundle, verify=verify).sample(1).shape[0] == 1
    else:
        with pytest.raises(BundleError, match=r"net.onnx does not match its hash"):
            open_toy_at(bundle, verify=verify)


def test_weights_beside_the_network_are_hashed_with_it(engine, toy, tmp_path):
    from aigc_edge.bundle.write import write_members

    path = tmp_path / "two.aigc"
    write_members(path, toy.manifest(), {"net.onnx": b"x", "net.onnx.data": b"weights", "other.data": b"of something else"})
    assert open_toy_at(path).sample(1).shape[0] == 1
    (path / "other.data").write_bytes(b"of something ELSE")
    assert open_toy_at(path).sample(1).shape[0] == 1
    (path / "net.onnx.data").write_bytes(b"Weights")
    with pytest.raises(BundleError, match=r"net.onnx.data does not match its hash"):
        open_toy_at(path)
    assert open_toy_at(path, verify="none").sample(1).shape[0] == 1


def test_a_truncated_or_missing_file_is_refused_even_when_trusted(bundle):
    whole = (bundle / "net.onnx").read_bytes()
    (bundle / "net.onnx").write_bytes(whole[:-1])
    with pytest.raises(BundleError, match=rf"{len(whole) - 1} bytes, the manifest says {len(whole)}"):
        open_toy_at(bundle, verify="none")
    (bundle / "net.onnx").unlink()
    with pytest.raises(BundleError, match=r"cannot read .*net.onnx"):
        open_toy_at(bundle)


def test_what_is_no_bundle_is_said(engine, tmp_path):
    with pytest.raises(BundleError, match=r"there is no bundle at"):
        open_toy_at(tmp_path / "nothing")
    with pytest.raises(BundleError, match=r"holds no manifest.json"):
        open_toy_at(tmp_path)
    (tmp_path / "picture.aigc").write_bytes(b"\x89PNG and so on")
    with pytest.raises(BundleError, match=r"is not a bundle"):
        open_toy_at(tmp_path / "picture.aigc")
    (tmp_path / "empty.aigc").write_bytes(b"")
    with pytest.raises(BundleError, match=r"is not a bundle"):
        open_toy_at(tmp_path / "empty.aigc")


def test_a_manifest_that_was_cut_off_or_changed_is_refused(bundle):
    text = (bundle / "manifest.json").read_text()
    (bundle / "manifest.json").write_text(text[: len(text) // 2])
    with pytest.raises(BundleError, match=r"does not match manifest.sha256"):
        open_toy_at(bundle)
    (bundle / "manifest.json").write_text(text.replace("80.0", "81.0"))
    with pytest.raises(BundleError, match=r"does not match manifest.sha256"):
        open_toy_at(bundle)


def _set(path, value):
    def change(manifest):
        *parents, last = path
        for key in parents:
            manifest = manifest[key]
        manifest[last] = value

    return change


ROW = ("programs", "dpmpp_2m-6", "rows", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set(("version",), 2), "format version is 2.*reads up to 1"),
        (_set(("format",), "zip"), "manifest.format"),
        (_set(("sample_shape",), [0, 3, 5]), r"sample_shape\[0\] must be a whole number from 1"),
        (_set(("sample_shape",), [2, 3, 6]), "sample_shape"),
        (_set(("sample_shape",), [70000, 70000]), "2\\^31"),
        (_set(("output_range",), [1, 1]), "low < high"),
        (_set(("classes", "count"), 0), "classes.count"),
        (_set(("default_program",), "none"), "default_program"),
        (_set(("default_format",), "int3"), "no format int3: choose one of fp32"),
        (_set(("files", "../secret"), {"bytes": 1, "sha256": ""}), "leads out of the bundle"),
        (_set(("files", "/etc/passwd"), {"bytes": 1, "sha256": ""}), "leads out of the bundle"),
        (_set(("components", "denoiser", "formats", "fp32", "file"), "../x"), "not among manifest.files"),
        (_set(("components", "oracle"), {"inputs": [], "outputs": [], "formats": {}}), "oracle is unknown"),
        (_set(("components", "denoiser", "inputs", 0, "dtype"), "float16"), "float16.*float32 and int64"),
        (_set(("components", "denoiser", "inputs", 0, "role"), "prompt"), "known roles"),
        (_set(("components", "denoiser", "outputs"), []), "one float32 output"),
        (_set((*ROW, "c_in"), "much"), r"rows\[0\].c_in must be a number"),
        (_set((*ROW, "c_in"), 1e39), "too large for float32"),
        (_set((*ROW, "after"), [[1, 0]]), r"after must have 2 rows, it has 1"),
        (_set((*ROW, "after"), [[1, 0], [1, 0]]), r"after\[0\] must hold 3 numbers, it holds 2"),
        (_set((*ROW, "guidance"), 1.5), "between 0 and 1"),
        (_set((*ROW, "clip"), [1, -1]), "low < high"),
        (_set((*ROW, "surprise"), 1), "unknown member"),
        (_set(("programs", "dpmpp_2m-6", "version"), 9), "has version 9.*newer"),
        (_set(("programs", "dpmpp_2m-6", "slots"), 9), "slots must be a whole number from 1 to 8"),
        (_set(("programs", "dpmpp_2m-6", "rows"), []), "no rows"),
        (_set(("programs", "dpmpp_2m-6", "name"), "other"), "name must be dpmpp_2m-6"),
    ],
)
def test_a_manifest_that_cannot_be_right_is_refused(bundle, change, message):
    rewrite(bundle, change)
    with pytest.raises(AigcEdgeError, match=message):
        open_toy_at(bundle)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("components", "denoiser", "inputs", 0, "shape", 1), 0, "components.denoiser.inputs[0].shape[1] must be a whole number"),
        (("components", "denoiser", "inputs", 1, "role"), 3, "components.denoiser.inputs[1].role must be a string"),
        (("components", "denoiser", "formats", "fp32"), [], "components.denoiser.formats.fp32 must be an object"),
        (("components", "denoiser", "formats", "fp32"), {}, "components.denoiser.formats.fp32.file must be present"),
        (("files", "net.onnx", "bytes"), "7", "files.net.onnx.bytes must be a number"),
        (("output_range", 1), None, "output_range[1] must be a number"),
        ((*ROW, "after", 1, 2), "x", "programs.dpmpp_2m-6.rows[0].after[1][2] must be a number"),
        (("programs", "heun-6", "rows", 3), None, "programs.heun-6.rows[3] must be an object"),
        (("programs", "a\nb" * 40), 3, "programs." + "a?b" * 20 + "... must be an object"),
    ],
)
def test_an_error_names_the_member_by_its_path(bundle, path, value, message):
    rewrite(bundle, _set(path, value))
    with pytest.raises(AigcEdgeError, match=re.escape(f"cannot be used: manifest.{message}")):
        open_toy_at(bundle)


def test_an_error_in_an_added_program_names_the_member_by_its_path(bundle):
    handle = pipeline._core.Handle(str(bundle), None)
    program = json.loads((bundle / "manifest.json").read_text())["programs"]["heun-6"]
    program["rows"][2]["level"] = [1, "2"]
    with pytest.raises(AigcEdgeError, match=r"cannot be used: program.rows\[2\].level\[1\] must be a number"):
        handle.add_program(json.dumps(program))


def test_an_unknown_format_lists_what_there_is(bundle):
    with pytest.raises(AigcEdgeError, match=r"no format int8: choose one of fp32"):
        open_toy_at(bundle, format="int8")


def test_a_compressed_zip_is_refused(bundle, tmp_path):
    packed = tmp_path / "deflated.aigc"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in bundle.iterdir():
            archive.write(file, file.name)
    with pytest.raises(BundleError, match=r"compressed"):
        open_toy_at(packed)


@pytest.mark.parametrize("kind", ["diffusion", "constants"])
def test_truncated_and_mangled_archives_never_open_as_something_else(engine, toy, make_bundle, tmp_path, kind):
    rng = np.random.default_rng()
    if kind == "constants":
        engine.networks["denoiser"] = toy.split_denoiser
    Bundle.open(make_bundle(kind), verify=True).pack(tmp_path / "whole.aigc")
    whole = (tmp_path / "whole.aigc").read_bytes()
    expected = open_toy_at(tmp_path / "whole.aigc").sample(1, seed=2)
    damaged = tmp_path / "damaged.aigc"
    for trial in range(300):
        data = bytearray(whole)
        if trial % 3 == 0:
            data = data[: rng.integers(0, len(data))]
        else:
            for at in rng.integers(0, len(data), rng.integers(1, 4)):
                data[at] = rng.integers(0, 256)
        damaged.write_bytes(bytes(data))
        try:
            opened = open_toy_at(damaged, verify="all")
        except AigcEdgeError:
            continue
        np.testing.assert_array_equal(opened.sample(1, seed=2), expected)  # the damage hit a byte that means nothing


@pytest.mark.parametrize("kind", ["diffusion", "constants", "text"])
def test_mangled_manifests_end_in_a_sentence(engine, make_bundle, kind):
    # The digest is made to fit, so that the parser itself meets what no writer writes.
    rng, bundle = np.random.default_rng(), make_bundle(kind)
    text = (bundle / "manifest.json").read_bytes()
    pieces = [b"null", b"-1", b"1e999", b"{}", b"[]", b'"', b"\\u0000", b"\xff", b"[[[[", b"1e308", b"true", b"-", b"\\ud800"]
    refused = []
    for trial in range(600):
        data = bytearray(text)
        for _ in range(rng.integers(1, 3)):
            at = int(rng.integers(0, len(data)))
            data[at : at + int(rng.integers(0, 6))] = (
                pieces[rng.integers(len(pieces))] if trial % 2 else bytes([rng.integers(256)])
            )
        (bundle / "manifest.json").write_bytes(bytes(data))
        (bundle / "manifest.sha256").write_text(hashlib.sha256(data).hexdigest())
        try:
            json.loads(pipeline._core.Handle(str(bundle), None).manifest)
        except AigcEdgeError as error:
            refused.append(str(error))
    assert refused
    assert all(str(bundle) in message for message in refused)


@pytest.mark.parametrize(
    "number", ["01", "1.", ".5", "-", "1e", "1e+", "+1", "0x10", "NaN", "Infinity", "1_000", "--1", "1.e3", "1e400"]
)
def test_numbers_that_json_forbids_are_refused(bundle, number):
    text = (bundle / "manifest.json").read_text().replace('"init_scale": 80.0', f'"init_scale": {number}').encode()
    assert number.encode() in text
    (bundle / "manifest.json").write_bytes(text)
    (bundle / "manifest.sha256").write_text(hashlib.sha256(text).hexdigest())
    with pytest.raises(BundleError, match="not valid JSON"):
        open_toy_at(bundle)


@pytest.mark.parametrize("number", ["0", "-0.0", "8e1", "8.0E+1", "0.8e-2", "123456789012345678901234567890"])
def test_numbers_that_json_allows_are_read(bundle, number):
    text = (bundle / "manifest.json").read_text().replace('"init_scale": 80.0', f'"init_scale": {number}').encode()
    (bundle / "manifest.json").write_bytes(text)
    (bundle / "manifest.sha256").write_text(hashlib.sha256(text).hexdigest())
    open_toy_at(bundle)


def test_a_deep_manifest_does_not_exhaust_the_stack(bundle):
    data = b'{"format":' + b"[" * 200_000
    (bundle / "manifest.json").write_bytes(data)
    (bundle / "manifest.sha256").write_text(hashlib.sha256(data).hexdigest())
    with pytest.raises(BundleError, match=r"nested too deep"):
        open_toy_at(bundle)


def test_hashes_are_those_of_hashlib(engine, make_bundle, tmp_path):
    # Sizes around the block and padding limits of SHA-256; a wrong digest would refuse the intact bundle.
    from aigc_edge.bundle.write import write_members

    rng = np.random.default_rng()
    source = json.loads((make_bundle() / "manifest.json").read_text())
    files = {f"{n}.bin": rng.bytes(n) for n in (0, 1, 55, 56, 63, 64, 65, 119, 120, 1000)} | {"net.onnx": b"x"}
    path = tmp_path / "sizes.aigc"
    write_members(path, {k: v for k, v in source.items() if k not in ("format", "version", "files")}, files)
    open_toy_at(path, verify="all")
    shutil.rmtree(path)
