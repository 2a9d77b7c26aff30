"""Further formats for a bundle: converted from its own networks, evaluated, and put in without touching what is there."""

from __future__ import annotations

import json

import numpy as np
import pytest

import aigc_edge
from aigc_edge.bundle.bundle import Bundle
from aigc_edge.compile.quantise import quantise_bundle
from aigc_edge.errors import AigcEdgeError, BudgetError

QUICK = {"samples": 8, "threads": 1}


def test_a_format_is_put_in_and_the_rest_stays(bundle):
    before = Bundle.open(bundle).manifest.to_json()
    made = quantise_bundle(bundle, ["int8:psnr=10,aim=0"], **QUICK)
    after = Bundle.open(bundle, verify=True).manifest.to_json()
    assert made.to_json() == after
    assert list(after["components"]["denoiser"]["formats"]) == ["fp32", "int8"]
    for name, entry in before["files"].items():
        if name not in ("quality.json",):
            assert after["files"][name] == entry
    assert after["default_format"] == "fp32"
    assert after["quality"]["int8"]["n"] == 8
    assert after["quality"]["int8"]["psnr"] > 10
    card = json.loads((bundle / "quality.json").read_text())
    assert card["int8"]["compression"]["denoiser.int8"]["nodes"]
    with aigc_edge.open(bundle, format="int8", threads=1) as one, aigc_edge.open(bundle, threads=1) as other:
        a, b = (p.sample(4, seed=3, output="float32") for p in (one, other))
    assert 0 < np.abs(a - b).max() < 0.1 * np.abs(b).max()


def test_a_packed_bundle_and_a_copy(bundle, tmp_path):
    Bundle.open(bundle, verify=True).pack(tmp_path / "packed.aigc")
    quantise_bundle(tmp_path / "packed.aigc", ["fp16"], out=tmp_path / "copy.aigc", default=True, **QUICK)
    assert list(Bundle.open(tmp_path / "packed.aigc").manifest.to_json()["components"]["denoiser"]["formats"]) == ["fp32"]
    copy = Bundle.open(tmp_path / "copy.aigc", verify=True).manifest.to_json()
    assert (tmp_path / "copy.aigc").is_file()
    assert copy["default_format"] == "fp16"


def test_a_budget_that_cannot_be_met_leaves_the_bundle_as_it_was(bundle):
    before = Bundle.open(bundle, verify=True).manifest.to_json()
    with pytest.raises(BudgetError, match="dB"):
        quantise_bundle(bundle, ["int8:min_share=0.9"], budget=["psnr=90"], **QUICK)
    assert Bundle.open(bundle, verify=True).manifest.to_json() == before


@pytest.mark.parametrize(
    ("formats", "options", "words"),
    [
        (["fp32"], {"overwrite": True}, "converted from"),
        (["fp32"], {}, "already"),
        (["int3"], {}, "int3"),
        ([], {}, "at least one"),
        (["int8"], {"targets": ["rtx-99"]}, "rtx-99"),
        (["int8"], {"budget": ["frechet=1.1x"]}, "no judge"),
        (["int8"], {"budget": ["psnr"]}, "is no budget"),
        (["int8"], {"samples": 1}, "at least 2"),
    ],
)
def test_what_cannot_be_done_is_said(bundle, formats, options, words):
    before = Bundle.open(bundle, verify=True).manifest.to_json()
    with pytest.raises(AigcEdgeError, match=words):
        quantise_bundle(bundle, formats, **QUICK | options)
    assert Bundle.open(bundle, verify=True).manifest.to_json() == before


def test_an_interrupted_call_goes_on(bundle, monkeypatch):
    from aigc_edge.compile import quantise
    from aigc_edge.compress.format import FORMATS

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(quantise, "evaluate_formats", interrupted)
        with pytest.raises(KeyboardInterrupt):
            quantise_bundle(bundle, ["int8:psnr=10,aim=0"], **QUICK)
    monkeypatch.setattr(FORMATS["int8"], "convert", lambda *_, **__: pytest.fail("it was converted twice"))
    quantise_bundle(bundle, ["int8:psnr=10,aim=0"], **QUICK)
    assert "int8" in Bundle.open(bundle, verify=True).manifest.to_json()["components"]["denoiser"]["formats"]


def test_the_command(bundle, tmp_path, capsys):
    from aigc_edge.cli import main

    page = tmp_path / "why.html"
    words = ["quantise", str(bundle), "--format", "int8:psnr=10,aim=0", "--samples", "8", "--threads", "1", "--report", str(page)]
    assert main(words) == 0
    assert "int8" in capsys.readouterr().out
    assert "layers.0" in page.read_text()
    assert main(["quantise", str(bundle), "--format", "int8"]) == 2
    assert "already" in capsys.readouterr().err
