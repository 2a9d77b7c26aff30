"""The README does what it says: its commands run, its code compiles, its options exist."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import aigc_edge
from aigc_edge.diffusion import build

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MARK = r"<!-- (?:executed|compiled) by tests/test_readme\.py -->\n"
QUICK = {"bench": "--runs 2 --batch 2 --cold-starts 0 --quality-images 0"}


def blocks(language: str, *, marked: bool) -> list[str]:
    """The code blocks of a language; `marked` ones are those that a comment above says are executed."""
    return re.findall(rf"{MARK if marked else ''}```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    """Every call of aigc-edge in a shell block, without its comment."""
    lines = [line for block in blocks("sh", marked=False) for line in block.splitlines()]
    return [line.partition(" #")[0].strip() for line in lines if line.startswith("aigc-edge ")]


@pytest.fixture
def folder(tiny_bundle: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_bundle, tmp_path / "digits.aigc")
    return tmp_path


def test_every_command_is_shown() -> None:
    from aigc_edge.commands import commands as known

    assert {line.split()[1] for line in commands()} == set(known())


def test_every_option_exists() -> None:
    # In a process of its own: other tests register families for themselves.
    code = (
        "import json, sys; from aigc_edge.cli import build_parser as p; [p().parse_args(line) for line in json.load(sys.stdin)]"
    )
    lines = json.dumps([shlex.split(line)[1:] for line in commands()])
    done = subprocess.run([sys.executable, "-c", code], input=lines, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_shell_commands_run(folder: Path) -> None:
    (block,) = blocks("sh", marked=True)
    lines = [f"{line} {QUICK.get(line.split()[1], '')}" for line in block.splitlines()]
    start = "import sys; sys.path[:] = [p for p in sys.path if p]; from aigc_edge.cli import main; sys.exit(main())"
    script = f'aigc-edge() {{ "{sys.executable}" -c "{start}" "$@"; }}\n' + "\n".join(lines)
    done = subprocess.run(["bash", "-euc", script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / "sevens.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "bench.json").stat().st_size > 1000


def diffusers_loop(unet: Any, scheduler: Any, steps: int, latents: Any) -> Any:
    """What a pipeline of diffusers does."""
    import torch

    scheduler.set_timesteps(steps)
    with torch.no_grad():
        for t in scheduler.timesteps:
            latents = scheduler.step(unet(latents, t).sample, t, latents).prev_sample
    return latents


def test_python_blocks_do_what_they_say(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aigc_edge.diffusion.solvers import SOLVERS

    monkeypatch.chdir(folder)
    monkeypatch.setattr(SOLVERS, "_things", dict(SOLVERS._things))
    found = []
    for index, block in enumerate(blocks("python", marked=True)):
        (folder / f"block{index}.py").write_text(block, encoding="utf-8")
        with contextlib.redirect_stdout(io.StringIO()) as said:
            found.append((runpy.run_path(str(folder / f"block{index}.py")), said.getvalue()))
    (sampling, _), (own, _), (core, _), (solver, printed), (_, imported) = found
    expected = diffusers_loop(core["unet"], core["DPMSolverMultistepScheduler"](), 20, core["latents"])
    assert (core["images"] - expected).norm() < 1e-4 * expected.norm()
    with aigc_edge.open(folder / "digits.aigc") as pipeline:
        channels, height, width = pipeline.manifest.output_shape
    assert sampling["images"].shape == (16, height, width, channels)
    assert sampling["images"].dtype == "uint8"
    latents = np.random.default_rng(0).standard_normal((3, 32), np.float32)
    with aigc_edge.open(folder / "mine.aigc", format="fp32") as pipeline, torch.no_grad():
        made = pipeline.sample(3, latents=latents, output="float32")
    np.testing.assert_allclose(made, own["decoder"](torch.from_numpy(latents)).numpy(), atol=1e-5)
    schedule = {"prediction": "edm", "sigma_data": 0.5}
    mine, theirs = (build(schedule, name, 10).to_json()["rows"] for name in ("my_euler", "euler"))
    for a, b in zip(mine, theirs, strict=True):
        assert a["after"][0] == pytest.approx(b["after"][0], rel=1e-12)
    assert "my_euler" in printed
    assert "UniPCMultistepScheduler-8: 8 evaluations" in imported
    assert solver["my_euler"].__doc__


def test_c_block_compiles_without_warnings(tmp_path: Path) -> None:
    (block,) = blocks("c", marked=True)
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    assert compiler, "there is no C compiler"
    (tmp_path / "app.c").write_text(block, encoding="utf-8")
    command = [compiler, "-std=c11", "-Wall", "-Wextra", "-Werror", "-I", ROOT / "csrc" / "include", "-c", "app.c"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_links_and_pictures_are_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_make_targets_are_there() -> None:
    made = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"(?:`|    )make ([a-z]+)", README)) <= set(made)
