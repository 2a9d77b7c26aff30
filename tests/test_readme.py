"""README and docs do what they say: their commands run, their code compiles, their options exist."""

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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import aigc_edge
from aigc_edge.diffusion import build
from aigc_edge.images import to_uint8

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
# Code with the comment above it: <!-- executed by tests/test_readme.py: NAME -->, compiled by …, or not executed: WHY.
BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[^>]*?) -->\n)?```(?P<language>[a-z]+)[^\n]*\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
EXECUTED, COMPILED, NOT = "executed by tests/test_readme.py: ", "compiled by tests/test_readme.py", "not executed: "
QUICK = {"bench": "--runs 2 --batch 2 --cold-starts 0 --quality-images 0"}


def blocks(language: str) -> list[tuple[str, str]]:
    """The comment above each block of a language, and its code, on all pages."""
    matches = (match for text in TEXTS.values() for match in BLOCK.finditer(text))
    return [(match["mark"] or "", match["code"]) for match in matches if match["language"] == language]


def executed(language: str) -> dict[str, str]:
    """The blocks of a language that are executed, by the names in their marks."""
    named = [(mark.removeprefix(EXECUTED), code) for mark, code in blocks(language) if mark.startswith(EXECUTED)]
    assert len(dict(named)) == len(named), "two executed blocks have the same name"
    return dict(named)


def commands() -> list[str]:
    """Every call of aigc-edge in a shell block, without its comment."""
    lines = [line for _, code in blocks("sh") for line in code.splitlines()]
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


def test_every_block_of_code_is_executed_or_says_why_not() -> None:
    for language, marks in (("python", (EXECUTED, NOT)), ("c", (COMPILED, NOT))):
        for mark, code in blocks(language):
            assert mark.startswith(marks), f"a {language} block lacks its mark:\n{code}"


def test_shell_commands_run(folder: Path) -> None:
    (block,) = executed("sh").values()
    lines = [f"{line} {QUICK.get(line.split()[1], '')}" for line in block.splitlines()]
    start = "import sys; sys.path[:] = [p for p in sys.path if p]; from aigc_edge.cli import main; sys.exit(main())"
    script = f'aigc-edge() {{ "{sys.executable}" -c "{start}" "$@"; }}\n' + "\n".join(lines)
    done = subprocess.run(["bash", "-euc", script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (folder / "sevens.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "bench.json").stat().st_size > 1000


def diffusers_loop(unet: Any, scheduler: Any, steps: int, latents: Any) -> Any:
    """What a pipeline of diffusers does."""
    scheduler.set_timesteps(steps)
    with torch.no_grad():
        for t in scheduler.timesteps:
            latents = scheduler.step(unet(latents, t).sample, t, latents).prev_sample
    return latents


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[dict[str, Any], str]]:
    """Runs the Python block of a name beside a bundle, and returns its variables and what it printed."""
    from aigc_edge.diffusion import SOLVERS

    monkeypatch.chdir(folder)
    monkeypatch.setattr(SOLVERS, "_things", {name: SOLVERS[name] for name in SOLVERS})  # what a block registers goes again

    def call(name: str) -> tuple[dict[str, Any], str]:
        (folder / "block.py").write_text(executed("python")[name], encoding="utf-8")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            variables = runpy.run_path(str(folder / "block.py"))
        return variables, printed.getvalue()

    return call


def test_sampling(run: Callable[[str], Any], folder: Path) -> None:
    images = run("sample")[0]["images"]
    with aigc_edge.open(folder / "digits.aigc") as pipeline:
        channels, height, width = pipeline.manifest.output_shape
        assert np.array_equal(images[:2], pipeline.sample(2, seed=0, classes=7))
    assert images.shape == (16, height, width, channels)
    assert images.dtype == "uint8"


def test_pipeline(run: Callable[[str], Any]) -> None:
    variables, printed = run("pipeline")
    assert "dpmpp_2m-10" in printed
    assert variables["floats"].dtype == "float32"
    assert np.array_equal(to_uint8(variables["floats"]), variables["sevens"])
    assert not np.array_equal(variables["heun"], variables["sevens"])


def test_request(run: Callable[[str], Any]) -> None:
    variables, _ = run("request")
    assert len(variables["sevens"]) == 6
    assert not np.array_equal(variables["heun"], variables["sevens"])


def test_inpainting(run: Callable[[str], Any]) -> None:
    variables, _ = run("inpainting")
    image, inpainted, kept = variables["image"], variables["inpainted"], variables["mask"] == 0
    assert np.abs(inpainted[0][kept].astype(int) - image[0][kept]).max() <= 1
    assert np.abs(inpainted[0][~kept].astype(int) - image[0][~kept]).max() > 1
    assert len(np.unique(variables["variants"], axis=0)) == 4


def test_own_generator(run: Callable[[str], Any], folder: Path) -> None:
    decoder = run("own-generator")[0]["decoder"]
    latents = np.random.default_rng(0).standard_normal((3, 32), np.float32)
    with aigc_edge.open(folder / "mine.aigc", format="fp32") as pipeline, torch.no_grad():
        images = pipeline.sample(3, latents=latents, output="float32")
    np.testing.assert_allclose(images, decoder(torch.from_numpy(latents)).numpy(), atol=1e-5)


def test_own_denoiser(run: Callable[[str], Any], folder: Path) -> None:
    denoiser = run("own-denoiser")[0]["source"].components()[0].module
    sample, timestep = np.random.default_rng(0).standard_normal((2, 3, 8, 8), np.float32), np.float32([10, 700])
    with aigc_edge.open(folder / "denoiser.aigc") as pipeline, torch.no_grad():
        output = pipeline.network(sample, timestep)
        assert pipeline.sample(2).shape == (2, 8, 8, 3)
    np.testing.assert_allclose(output, denoiser(torch.from_numpy(sample), torch.from_numpy(timestep)).numpy(), atol=1e-5)


def test_build_program(run: Callable[[str], Any]) -> None:
    variables, printed = run("build-program")
    assert variables["program"].guidance_scale == 7.5
    assert "unipc" in printed


def test_run_program(run: Callable[[str], Any]) -> None:
    core, _ = run("run-program")
    expected = diffusers_loop(core["unet"], core["DPMSolverMultistepScheduler"](), 20, core["latents"])
    assert (core["images"] - expected).norm() < 1e-4 * expected.norm()


def test_import_scheduler(run: Callable[[str], Any]) -> None:
    assert "UniPCMultistepScheduler-8: 8 evaluations" in run("import-scheduler")[1]


def test_add_solver(run: Callable[[str], Any]) -> None:
    variables, printed = run("add-solver")
    schedule = {"prediction": "edm", "sigma_data": 0.5}
    mine, theirs = (build(schedule, name, 10).to_json()["rows"] for name in ("my_euler", "euler"))
    for a, b in zip(mine, theirs, strict=True):
        assert a["after"][0] == pytest.approx(b["after"][0], rel=1e-12)
    assert "my_euler" in printed
    assert variables["my_euler"].__doc__


def test_every_executed_block_has_a_test() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    assert set(executed("python")) == set(re.findall(r'run\("([a-z-]+)"\)', here))


def test_c_blocks_compile_without_warnings(tmp_path: Path) -> None:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    assert compiler, "there is no C compiler"
    sources = [code for mark, code in blocks("c") if mark == COMPILED]
    assert len(sources) == 2
    for code in sources:
        (tmp_path / "app.c").write_text(code, encoding="utf-8")
        command = [compiler, "-std=c11", "-Wall", "-Wextra", "-Werror", "-I", ROOT / "csrc" / "include", "-c", "app.c"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_make_targets_are_there() -> None:
    made = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    text = "\n".join([*TEXTS.values(), (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")])
    assert set(re.findall(r"(?:`|^    )make ([a-z]+)", text, re.MULTILINE)) <= set(made)


def test_the_readme_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 150
