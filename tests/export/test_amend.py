"""Programs are added to a bundle as a whole or not at all, to a folder and to a packed file alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from aigc_edge.bundle import amend
from aigc_edge.bundle.amend import add_programs, files_below, unpacked
from aigc_edge.bundle.writer import pack, read_manifest
from aigc_edge.diffusion import Program, build
from aigc_edge.errors import AigcEdgeError, BundleError

SCHEDULE = {"prediction": "edm", "sigma_data": 0.698}


@pytest.fixture(params=["folder", "packed"])
def bundle(request: pytest.FixtureRequest, own_bundle: Path, tmp_path: Path) -> Path:
    if request.param == "folder":
        return own_bundle
    pack(own_bundle, tmp_path / "packed.aigc")
    return tmp_path / "packed.aigc"


def program(name: str) -> Program:
    made = build(SCHEDULE, "ddim", 3, guidance_scale=2.0)
    return Program(name, made.slots, made.init_scale, made.rows, 2.0, {"solver": "tuned", "steps": 3, "psnr": 31.5})


def test_the_rest_stays_as_it_is(bundle: Path) -> None:
    before, kind = read_manifest(bundle), bundle.is_dir()
    beside = set(bundle.parent.iterdir())
    add_programs(bundle, {"tuned-3": program("tuned-3")})
    after = read_manifest(bundle, verify=True)
    assert bundle.is_dir() == kind
    assert set(bundle.parent.iterdir()) == beside  # nothing temporary is left
    assert after["programs"].pop("tuned-3") == program("tuned-3").to_json()
    assert after == before


def test_a_default_and_a_replacement(bundle: Path) -> None:
    add_programs(bundle, {"tuned-3": program("old")}, default="tuned-3")
    add_programs(bundle, {"tuned-3": program("new")})
    after = read_manifest(bundle, verify=True)
    assert after["default_program"] == "tuned-3"
    assert after["programs"]["tuned-3"]["name"] == "new"


def test_a_failure_leaves_it_as_it_was(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, beside = read_manifest(bundle), set(bundle.parent.iterdir())

    def broken(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(amend, "write_bundle", broken)
    with pytest.raises(KeyboardInterrupt):
        add_programs(bundle, {"tuned-3": program("tuned-3")})
    assert read_manifest(bundle, verify=True) == before
    assert set(bundle.parent.iterdir()) == beside


def test_a_damaged_bundle_is_not_blessed(own_bundle: Path) -> None:
    file = own_bundle / "preview.png"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match="does not match its hash"):
        add_programs(own_bundle, {"tuned-3": program("tuned-3")})


def test_another_version_is_refused(own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amend, "VERSION", 2)
    with pytest.raises(AigcEdgeError, match="version 1, 2 is written"):
        add_programs(own_bundle, {})


def test_files_can_be_had_from_both(bundle: Path) -> None:
    names = files_below(read_manifest(bundle), "judge")
    assert sorted(names) == ["judge/classifier.onnx", "judge/features.npy", "judge/judge.json"]
    with unpacked(bundle, names) as folder:
        assert all((folder / name).stat().st_size for name in names)
    assert folder.exists() == bundle.is_dir()
