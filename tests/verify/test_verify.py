"""`aigc-edge verify` on the committed bundle: what is equal is found equal, and the first step that is not is named."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.write import write_members
from aigc_edge.cli import main
from aigc_edge.diffusion import from_diffusers
from aigc_edge.errors import AigcEdgeError
from aigc_edge.verify import verify

pytest.importorskip("onnxruntime")
BUNDLE = Path(__file__).resolve().parents[1] / "data" / "digits-tiny.aigc"


@pytest.fixture
def with_program(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """with_program(program JSON) is a copy of the bundle whose default program it is."""

    def make(program: dict[str, Any]) -> Path:
        manifest = Bundle.open(BUNDLE).manifest.to_json()
        files = {name: BUNDLE / name for name in manifest.pop("files")}
        changed = manifest | {"programs": {program["name"]: program}, "default_program": program["name"]}
        write_members(tmp_path / "changed.aigc", {k: v for k, v in changed.items() if k not in ("format", "version")}, files)
        return tmp_path / "changed.aigc"

    return make


def default() -> dict[str, Any]:
    manifest = Bundle.open(BUNDLE).manifest.to_json()
    return copy.deepcopy(manifest["programs"][manifest["default_program"]])


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m", "dpmpp_2m_sde"])
def test_solvers_that_diffusers_has_are_equal(solver: str) -> None:
    pytest.importorskip("diffusers")
    found = verify(BUNDLE, solver=solver, steps=5, samples=2, seed=77, threads=1)
    assert found.first is None
    assert len(found.rows) == 5
    assert found.result < 2e-4  # diffusers starts from sqrt(sigma_max² + 1)


@pytest.mark.parametrize("solver", ["heun", "euler_ancestral", "unipc"])
def test_every_program_equals_the_rows_in_float64(solver: str) -> None:
    found = verify(BUNDLE, "reference", solver=solver, steps=4, samples=3, threads=1, tolerance=1e-4)
    assert found.first is None
    assert found.result < 2e-5


def test_the_first_step_that_diverges_is_named(with_program: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("diffusers")
    program = default()
    after = program["rows"][3]["after"][0]
    after[-1] *= 1.02  # two in a hundred of the pull of row 3: row 4 is the first to see it
    bundle = with_program(program)
    assert verify(bundle, threads=1).first == 4
    assert main(["verify", str(bundle), "--threads", "1"]) == 1
    shown = capsys.readouterr().out
    assert "diverges from diffusers at row 4" in shown
    assert [line.split()[0] for line in shown.splitlines() if line.rstrip().endswith("diverges")] == ["4"]


def test_another_time_input_is_a_divergence(with_program: Callable[..., Path]) -> None:
    pytest.importorskip("diffusers")
    program = default()
    program["rows"][2]["timestep"] += 1e-3
    assert verify(with_program(program), threads=1, tolerance=1.0).first == 2


@pytest.mark.parametrize("kind", ["UniPCMultistepScheduler", "EulerAncestralDiscreteScheduler", "DDPMScheduler", "DDIMScheduler"])
def test_an_imported_program_equals_its_scheduler(kind: str, with_program: Callable[..., Path], tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = getattr(diffusers, kind)(beta_schedule="scaled_linear", prediction_type="v_prediction")
    program = from_diffusers(scheduler, 6, guidance_scale=1.5, timestep_scale=1e-3)
    bundle = with_program(program.to_json())
    assert verify(bundle, threads=1).first is None
    other = getattr(diffusers, kind)(beta_schedule="linear", prediction_type="v_prediction")
    other.save_pretrained(tmp_path / "other")
    assert verify(bundle, threads=1, scheduler=str(tmp_path / "other")).first in (0, 1)


def test_what_cannot_be_compared_is_said(with_program: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(AigcEdgeError, match="'magic' cannot be compared with: choose one of diffusers, reference"):
        verify(BUNDLE, "magic")
    with pytest.raises(AigcEdgeError, match="classes were given for 2 samples"):
        verify(BUNDLE, "reference", classes=[1])
    with pytest.raises(AigcEdgeError, match="0 samples"):
        verify(BUNDLE, "reference", samples=0)
    pytest.importorskip("diffusers")
    with pytest.raises(AigcEdgeError, match="no scheduler of diffusers is known for program ddim-10"):
        verify(BUNDLE, solver="ddim")
    (tmp_path / "config.json").write_text(json.dumps({"beta": 1}))
    for file, sentence in (("nothing.json", "cannot read"), ("config.json", "is no scheduler_config.json")):
        with pytest.raises(AigcEdgeError, match=sentence):
            verify(BUNDLE, scheduler=str(tmp_path / file))
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "NoScheduler"}))
    with pytest.raises(AigcEdgeError, match="has no scheduler 'NoScheduler'"):
        verify(BUNDLE, scheduler=str(tmp_path / "config.json"))
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "HeunDiscreteScheduler"}))
    with pytest.raises(AigcEdgeError, match="evaluates the network 10 times, diffusers 19 times"):
        verify(BUNDLE, scheduler=str(tmp_path / "config.json"))
