"""benchmarks/gpu.py on the CPU, tiny: that every part runs, compares like with like and says what it left out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("aigc_edge._core")
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"
PARTS = "ceilings,steps,bandwidth,normals,loop"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, SCRIPT, *arguments], text=True, capture_output=True, env=environment, check=False)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    out = tmp_path_factory.mktemp("gpu") / "cpu.json"
    done = run("--device", "cpu", "--quick", "--parts", PARTS, "--out", out)
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(out.read_text(encoding="utf-8")), done.stdout


def test_all_parts_are_there_and_none_failed(result: tuple[dict[str, Any], str]) -> None:
    figures, printed = result
    assert (figures["failed"], figures["quick"]) == ({}, True)
    assert set(PARTS.split(",")) <= set(figures)
    assert all(value > 0 for value in figures["ceilings"].values())
    assert printed.index("ceiling") < printed.index("floor") < printed.index("relative L2")


def test_peers_compute_the_same_and_ratios_come_from_the_samples(result: tuple[dict[str, Any], str]) -> None:
    figures, _ = result
    assert figures["steps"]
    for entry in figures["steps"]:
        assert entry["relative_l2_to_plain_torch"] < 1e-4
        assert set(entry["ratios"]) >= {"plain torch"}
        assert all(figure["rounds"] == 3 for figure in entry["ratios"].values())
    (loop,) = figures["loop"]
    assert loop["relative_l2"]["aigc-edge"] == 0  # float32 here is the reference itself
    assert all(error < 1e-3 for error in loop["relative_l2"].values())
    assert loop["floor"]["seconds"] == max(loop["floor"]["seconds_for_bytes"], loop["floor"]["seconds_for_arithmetic"])
    for name, timed in loop["timings"].items():
        assert loop["milliseconds"][name] == pytest.approx(1e3 * timed["wall"]["median"])
        assert len(timed["wall"]["samples"]) == 3
        assert loop["launches"][name] > 20
    assert "CUDA device" in loop["left_out"]["the graph of aigc-edge"]
    for entry in figures["bandwidth"]:
        assert entry["bytes"] == pytest.approx(2**20, rel=0.1)


def test_wrong_words_and_no_gpu_are_sentences() -> None:
    import torch

    if not torch.cuda.is_available():
        done = run("--parts", "ceilings")
        assert (done.returncode, done.stderr) == (
            2,
            "gpu: torch finds no GPU here: give --device cpu --quick to see whether it runs\n",
        )
    else:
        done = run("--device", "cpu", "--parts", "poetry")
        assert (done.returncode, "there is no part 'poetry'" in done.stderr) == (2, True)
