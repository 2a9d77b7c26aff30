"""Programs are added to a bundle as a whole or not at all, to a folder and to a packed file alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from aigc_edge.bundle import bundle as module
from aigc_edge.bundle.bundle import Bundle
from aigc_edge.diffusion import Program, build
from aigc_edge.errors import AigcEdgeError, BundleError

SCHEDULE = {"prediction": "edm", "sigma_data": 0.698}


@pytest.fixture(params=["folder", "packed"])
def bundle(request: pytest.FixtureRequest, own_bundle: Path, tmp_path: Path) -> Path:
    if request.param == "folder":
        return own_bundle
    Bundle.open(own_bundle, verify=True).pack(tmp_path / "packed.aigc")
    return tmp_path / "packed.aigc"


def program(name: str, psnr: float = 31.5) -> Program:
    made = build(SCHEDULE, "ddim", 3, guidance_scale=2.0)
    return Program(name, made.slots, made.init_scale, made.rows, 2.0, {"solver": "tuned", "steps": 3, "psnr": psnr})


def test_the_rest_stays_as_it_is(bundle: Path) -> None:
    before, kind = Bundle.open(bundle).manifest.to_json(), bundle.is_dir()
    beside = set(bundle.parent.iterdir())
    Bundle.open(bundle, verify=True).add_programs({"tuned-3": program("tuned-3")})
    after = Bundle.open(bundle, verify=True).manifest.to_json()
    assert bundle.is_dir() == kind
    assert set(bundle.parent.iterdir()) == beside  # nothing temporary is left
    assert after["programs"].pop("tuned-3") == program("tuned-3").to_json()
    assert after == before


def test_a_default_and_a_replacement(bundle: Path) -> None:
    Bundle.open(bundle, verify=True).add_programs({"tuned-3": program("tuned-3", 20.0)}, default="tuned-3")
    Bundle.open(bundle, verify=True).add_programs({"tuned-3": program("tuned-3", 25.0)})
    after = Bundle.open(bundle, verify=True).manifest.to_json()
    assert after["default_program"] == "tuned-3"
    assert after["programs"]["tuned-3"]["meta"]["psnr"] == 25.0


def test_a_failure_leaves_it_as_it_was(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, beside = Bundle.open(bundle).manifest.to_json(), set(bundle.parent.iterdir())

    def broken(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("aigc_edge.bundle.write.write_bundle", broken)
    with pytest.raises(KeyboardInterrupt):
        Bundle.open(bundle, verify=True).add_programs({"tuned-3": program("tuned-3")})
    assert Bundle.open(bundle, verify=True).manifest.to_json() == before
    assert set(bundle.parent.iterdir()) == beside


def test_a_damaged_bundle_is_not_blessed(own_bundle: Path) -> None:
    file = own_bundle / "preview.png"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match="does not match its hash"):
        Bundle.open(own_bundle, verify=True).add_programs({"tuned-3": program("tuned-3")})


def test_another_version_is_refused(own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VERSION", 2)
    with pytest.raises(AigcEdgeError, match="version 1, 2 is written"):
        Bundle.open(own_bundle, verify=True).add_programs({})


def test_files_can_be_had_from_both(bundle: Path) -> None:
    names = Bundle.open(bundle).below("judge")
    assert sorted(names) == ["judge/classifier.onnx", "judge/features.npy", "judge/judge.json"]
    with Bundle.open(bundle).extract(names) as folder:
        assert all((folder / name).stat().st_size for name in names)
    assert folder.exists() == bundle.is_dir()
