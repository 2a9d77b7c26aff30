"""The command line as a user meets it: a failure is one sentence on stderr and exit code 2, and leaves nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import aigc_edge

START = "import sys; sys.path[:] = [p for p in sys.path if p]; from aigc_edge.cli import main; sys.exit(main())"
# Runs with a package that is not there: stands for an engine or an extra that was not installed.
WITHOUT = """
import importlib.util, sys
missing = {name!r}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.split(".")[0] == missing else found(name, package)
"""


def run(*arguments: str | Path, cwd: Path, code: str = START, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "AIGC_EDGE_DEBUG"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False, **options)


def left(folder: Path) -> set[str]:
    """Everything below a folder, hidden and temporary files included."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def refuse(cwd: Path, *arguments: str | Path, says: tuple[str, ...], code: str = START) -> str:
    """Run; expect one sentence with all of `says`, exit code 2 and not one file more or less. Returns the sentence."""
    before = left(cwd)
    done = run(*arguments, cwd=cwd, code=code)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("aigc-edge: ")
    for part in says:
        assert part in lines[0], f"{part!r} is not in: {lines[0]}"
    assert left(cwd) == before, left(cwd) ^ before
    return lines[0]


# --- wrong words ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], ("COMMAND", "--help")),
        (["paint"], ("'paint'", "train", "sample", "bench", "--help")),
        (["sample"], ("BUNDLE", "aigc-edge sample --help")),
        (["sample", "x.aigc", "-n", "0"], ("-n", "0", "1 to")),
        (["sample", "x.aigc", "-n", "-3"], ("-n",)),
        (["sample", "x.aigc", "-n", "many"], ("'many'", "whole number")),
        (["sample", "x.aigc", "--steps", "0"], ("--steps", "0", "1 to 10000")),
        (["sample", "x.aigc", "--steps", "-5"], ("--steps",)),
        (["sample", "x.aigc", "--guidance", "nan"], ("--guidance", "nan")),
        (["sample", "x.aigc", "--seed", "-1"], ("--seed",)),
        (["sample", "x.aigc", "--seed", str(2**64)], ("--seed", "18446744073709551615")),
        (["sample", "x.aigc", "--threads", "0"], ("--threads", "0")),
        (["sample", "x.aigc", "--columns", "0"], ("--columns", "0")),
        (["sample", "x.aigc", "--step", "3"], ("--step",)),
        (["sample", "x.aigc", "-o", "x.jpg"], ("x.jpg", ".png", ".npz")),
        (["sample", "x.aigc", "--program", "p", "--steps", "3"], ("--program", "--steps")),
        (["bench", "x.aigc", "--runs", "0"], ("--runs", "0")),
        (["bench", "x.aigc", "--quality-images", "1"], ("--quality-images 1", "at least 2")),
    ],
)
def test_wrong_words(arguments: list[str], says: tuple[str, ...], tmp_path: Path) -> None:
    refuse(tmp_path, *arguments, says=says)


@pytest.mark.parametrize("command", ["train", "compile", "sample", "inspect", "bench"])
def test_help_names_every_option_with_its_default(command: str, tmp_path: Path) -> None:
    done = run(command, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: aigc-edge {command}")
    assert max(len(line) for line in done.stdout.splitlines()) <= 132


def test_version(tmp_path: Path) -> None:
    assert run("--version", cwd=tmp_path).stdout == f"aigc-edge {aigc_edge.__version__}\n"


# --- bundles that are not what they should be ----------------------------------------------------------------------

COMMANDS = ["sample", "inspect", "bench"]


@pytest.mark.parametrize("command", COMMANDS)
def test_missing_bundle(command: str, tmp_path: Path) -> None:
    refuse(tmp_path, command, "no-such.aigc", says=("no-such.aigc", "aigc-edge compile"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_and_a_file_that_are_no_bundle(command: str, tmp_path: Path) -> None:
    (tmp_path / "empty.aigc").mkdir()
    (tmp_path / "text.aigc").write_text("hello")
    refuse(tmp_path, command, "empty.aigc", says=("empty.aigc", "manifest.json"))
    refuse(tmp_path, command, "text.aigc", says=("text.aigc",))


def resign(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest and its digest, as somebody who knows how would."""
    import hashlib

    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    change(manifest)
    text = json.dumps(manifest).encode()
    (bundle / "manifest.json").write_bytes(text)
    (bundle / "manifest.sha256").write_text(hashlib.sha256(text).hexdigest() + "\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_newer_version(command: str, own_bundle: Path) -> None:
    resign(own_bundle, lambda manifest: manifest.update(version=99))
    refuse(own_bundle.parent, command, own_bundle.name, says=("version", "99", "up to 1"))


@pytest.mark.parametrize("command", COMMANDS)
def test_manifest_that_does_not_match_its_digest(command: str, own_bundle: Path) -> None:
    text = (own_bundle / "manifest.json").read_text(encoding="utf-8")
    (own_bundle / "manifest.json").write_text(text.replace('"default_format"', '"default_Format"'), encoding="utf-8")
    refuse(own_bundle.parent, command, own_bundle.name, says=("manifest.json",))


def network(bundle: Path) -> Path:
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    component = next(iter(manifest["components"].values()))
    return bundle / component["formats"][manifest["default_format"]]["file"]


@pytest.mark.parametrize("command", COMMANDS)
def test_truncated_network(command: str, own_bundle: Path) -> None:
    file = network(own_bundle)
    file.write_bytes(file.read_bytes()[:-100])
    refuse(own_bundle.parent, command, own_bundle.name, says=(file.name, str(file.stat().st_size)))


@pytest.mark.parametrize("command", ["sample", "inspect"])
def test_tampered_network(command: str, own_bundle: Path, rng: np.random.Generator) -> None:
    file = network(own_bundle)
    data = bytearray(file.read_bytes())
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    file.write_bytes(data)
    refuse(own_bundle.parent, command, own_bundle.name, says=(file.name,))


@pytest.mark.parametrize("command", COMMANDS)
def test_network_that_is_gone(command: str, own_bundle: Path) -> None:
    file = network(own_bundle)
    file.unlink()
    refuse(own_bundle.parent, command, own_bundle.name, says=(file.name,))


# --- asking a good bundle for what it has not ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--solver", "magic"], ("'magic'", "dpmpp_2m", "euler")),
        (["--class", "10"], ("'10'", "0 to 9")),
        (["--class=-2"], ("'-2'", "0 to 9")),
        (["--class", "seven"], ("'seven'", "0 to 9")),
        (["--class", "1,,2"], ("1,,2",)),
        (["--format", "fp99"], ("fp99", "fp32")),
        (["--engine", "abacus"], ("'abacus'", "onnxruntime")),
        (["--program", "none-such"], ("none-such",)),
        (["-o", "no-such-folder-is-made/x.txt"], (".png",)),
    ],
)
def test_what_a_bundle_has_not(options: list[str], says: tuple[str, ...], own_bundle: Path) -> None:
    refuse(own_bundle.parent, "sample", own_bundle.name, *options, says=says)


def test_inspect_of_a_program_that_is_not_there(own_bundle: Path) -> None:
    refuse(own_bundle.parent, "inspect", own_bundle.name, "--program", "magic-3", says=("'magic-3'", "dpmpp_2m"))


def test_engine_that_is_not_installed(own_bundle: Path) -> None:
    code = WITHOUT.format(name="onnxruntime") + START
    refuse(own_bundle.parent, "sample", own_bundle.name, code=code, says=("onnxruntime", "pip install"))


def test_torch_engine_without_torch(own_bundle: Path) -> None:
    code = WITHOUT.format(name="torch") + START
    refuse(own_bundle.parent, "sample", own_bundle.name, "--engine", "torch", code=code, says=("torch", "aigc-edge[train]"))


def test_training_without_torch(tmp_path: Path) -> None:
    code = WITHOUT.format(name="torch") + START
    command = ("train", "diffusion", "--data", "digits", "--out", "run")
    refuse(tmp_path, *command, code=code, says=("torch", "aigc-edge[train]"))


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU")
def test_a_plan_without_a_gpu_says_exactly_that(own_bundle: Path) -> None:
    sentence = refuse(own_bundle.parent, "sample", own_bundle.name, "--engine", "tensorrt", says=("TensorRT", "onnxruntime"))
    assert "needs an NVIDIA GPU" in sentence or "not installed" in sentence


# --- training data -------------------------------------------------------------------------------------------------


def train(cwd: Path, data: str | Path, *more: str, says: tuple[str, ...]) -> None:
    refuse(cwd, "train", "gan", "--data", data, "--out", "run", *more, says=says)


def test_training_data_that_is_not_there(tmp_path: Path) -> None:
    train(tmp_path, "no-such-folder", says=("no-such-folder", "digits"))


def test_empty_image_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    train(tmp_path, "images", says=("images",))


def test_corrupt_image(tmp_path: Path, rng: np.random.Generator) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8)).save(folder / f"{index}.png")
    whole = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(whole[: len(whole) // 2])
    train(tmp_path, "images", says=("1.png", "--skip-corrupt"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_unreadable_image_folder(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir(mode=0)
    try:
        train(tmp_path, "images", says=("images",))
    finally:
        folder.chmod(0o700)


@pytest.mark.parametrize("size", ["0", "5000", "big"])
def test_sizes_out_of_range(size: str, tmp_path: Path) -> None:
    train(tmp_path, "digits", "--size", size, says=("--size", size.lstrip("-")))


def test_compiling_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    refuse(tmp_path, "compile", "run", says=("run", "aigc-edge train"))
    refuse(tmp_path, "compile", "none", says=("none",))


@pytest.mark.parametrize(("option", "value"), [("--target", "toaster"), ("--format", "fp99"), ("--format", "int8:speed=9")])
def test_compiling_for_what_there_is_not(option: str, value: str, tmp_path: Path) -> None:
    refuse(tmp_path, "compile", "run", option, value, says=(value.partition(":")[0],))


# --- what the machine cannot do ------------------------------------------------------------------------------------


@pytest.fixture
def full_disk(tmp_path: Path) -> Any:
    """A folder on a file system of 64 KB; only root can make one."""
    place = tmp_path / "full"
    place.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or not mount:
        pytest.skip("only root can mount a small file system")
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, check=False).returncode:
        pytest.skip("this container may not mount")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_full_disk(own_bundle: Path, full_disk: Path) -> None:
    (full_disk / "filler").write_bytes(b"x" * 40_000)
    for name in ("x.npz", "x.png"):
        command = ("sample", own_bundle, "-n", "400", "--steps", "1", "-o", name)
        refuse(full_disk, *command, says=("no space left", name))
    done = run("train", "diffusion", "--data", "digits", "--out", "run", "--steps", "1", cwd=full_disk)
    assert done.returncode == 2
    assert done.stderr.startswith("aigc-edge: no space left to write run/checkpoint")
    assert len(done.stderr.splitlines()) == 1
    kept = {path.name.partition(".")[0] for path in (full_disk / "run").iterdir()}
    assert kept <= {"config", "events"}  # both whole: the same command goes on from there when there is space again
    json.loads((full_disk / "run" / "config.json").read_text(encoding="utf-8"))


def test_full_disk_without_root(own_bundle: Path) -> None:
    # /dev/full accepts nothing: the archive is written to it instead of to its temporary file.
    code = (
        "import builtins, errno, os\nfrom pathlib import Path\n"
        "def write(self, data):\n    raise OSError(errno.ENOSPC, 'No space left on device', str(self))\n"
        "import numpy\ndef full(file, **arrays):\n    raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "numpy.savez_compressed = full\n" + START
    )
    refuse(
        own_bundle.parent, "sample", own_bundle.name, "--steps", "1", "-o", "x.npz", code=code, says=("no space left", "x.npz")
    )


def test_place_that_cannot_be_written(own_bundle: Path) -> None:
    (own_bundle.parent / "file").write_text("")
    refuse(own_bundle.parent, "sample", own_bundle.name, "--steps", "1", "-o", "file/x.png", says=("file/x.png",))


def test_interrupt_leaves_nothing_behind(own_bundle: Path) -> None:
    before = left(own_bundle.parent)
    command = [sys.executable, "-c", START, "sample", own_bundle.name, "-n", "1000000", "--steps", "1000", "-o", "x.png"]
    process = subprocess.Popen(command, cwd=own_bundle.parent, stderr=subprocess.PIPE, text=True)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert left(own_bundle.parent) == before


def test_closed_pipe_is_quiet(own_bundle: Path) -> None:
    command = f'"{sys.executable}" -c "{START}" inspect "{own_bundle}" --json | head -c 1'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "{"
    assert done.stderr == ""


def test_debug_shows_the_stack_trace(tmp_path: Path) -> None:
    environment = os.environ | {"AIGC_EDGE_DEBUG": "1"}
    command = [sys.executable, "-c", START, "inspect", "no-such.aigc"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" in done.stderr
    assert "BundleError" in done.stderr


# --- and what it does when all is well -----------------------------------------------------------------------------


def test_sample_writes_what_the_pipeline_draws(own_bundle: Path, rng: np.random.Generator) -> None:
    seed, folder = int(rng.integers(2**63)), own_bundle.parent
    options = (
        "-n",
        "5",
        "--class",
        "3,8",
        "--seed",
        str(seed),
        "--steps",
        "4",
        "--solver",
        "euler",
        "--guidance",
        "1.5",
        "--threads",
        "1",
    )
    done = run("sample", own_bundle.name, *options, "--npz", "x.npz", "--png", "x.png", cwd=folder)
    assert done.returncode == 0, done.stderr
    with aigc_edge.open(own_bundle, threads=1) as pipeline:
        classes = [3, 3, 3, 8, 8]
        wanted = pipeline.sample(5, seed=seed, classes=classes, solver="euler", steps=4, guidance_scale=1.5)
    stored = np.load(folder / "x.npz")
    np.testing.assert_array_equal(stored["images"], wanted)
    np.testing.assert_array_equal(stored["classes"], classes)
    np.testing.assert_array_equal(stored["seeds"], np.arange(5, dtype=np.uint64) + np.uint64(seed))
    picture = np.asarray(Image.open(folder / "x.png"))
    height, width = wanted.shape[1:3]
    factor = (picture.shape[0] - 3) // (2 * height)  # two rows of three, one a class, with lines between them
    assert picture.shape == (2 * height * factor + 3, 3 * width * factor + 4)
    first = picture[1 : 1 + height * factor : factor, 1 : 1 + width * factor : factor]
    np.testing.assert_array_equal(first, wanted[0, :, :, 0])


def test_long_calls_continue_the_seeds(own_bundle: Path) -> None:
    from aigc_edge.commands.sample import AT_ONCE

    count, top = AT_ONCE + 2, 2**64 - 1  # the seeds pass 2^64 and go on from 0
    done = run(
        "sample", own_bundle.name, "-n", str(count), "--seed", str(top), "--steps", "1", "--npz", "x.npz", cwd=own_bundle.parent
    )
    assert done.returncode == 0, done.stderr
    seeds = [(top + i) % 2**64 for i in range(count)]
    stored = np.load(own_bundle.parent / "x.npz")
    np.testing.assert_array_equal(stored["seeds"], np.array(seeds, dtype=np.uint64))
    with aigc_edge.open(own_bundle) as pipeline:
        np.testing.assert_array_equal(stored["images"], pipeline.sample(count, seeds=seeds, steps=1))


def test_inspect_says_what_the_manifest_says(own_bundle: Path) -> None:
    manifest = json.loads((own_bundle / "manifest.json").read_text(encoding="utf-8"))
    said = json.loads(run("inspect", own_bundle.name, "--json", cwd=own_bundle.parent).stdout)
    assert {key: said[key] for key in manifest} == manifest
    text = run("inspect", own_bundle.name, cwd=own_bundle.parent).stdout
    assert max(len(line) for line in text.splitlines()) <= 100
    assert f"all {len(manifest['files'])} files match" in text
    for part in [*manifest["programs"], *next(iter(manifest["components"].values()))["formats"], manifest["family"]]:
        assert part in text


def test_inspect_prints_a_program(own_bundle: Path) -> None:
    from aigc_edge.diffusion import Program

    manifest = json.loads((own_bundle / "manifest.json").read_text(encoding="utf-8"))
    name = manifest["default_program"]
    table = run("inspect", own_bundle.name, "--program", name, cwd=own_bundle.parent).stdout
    assert table == f"{Program.from_json(manifest['programs'][name])}\n"
    rows = run("inspect", own_bundle.name, "--program", "default", "--json", cwd=own_bundle.parent).stdout
    assert json.loads(rows) == manifest["programs"][name]


def test_bench_writes_its_figures(own_bundle: Path) -> None:
    options = ("--runs", "2", "--batch", "2", "--warmup", "0", "--cold-starts", "0", "--quality-images", "0", "--formats", "fp32")
    done = run("bench", own_bundle.name, *options, "--json", "b.json", "--html", "r.html", cwd=own_bundle.parent)
    assert done.returncode == 0, done.stderr
    figures = json.loads((own_bundle.parent / "b.json").read_text(encoding="utf-8"))
    for row in figures["configurations"]:
        assert len(row["latency"]["1"]["samples"]) == 2
        assert f"{row['title']} fp32" in done.stdout
    assert (own_bundle.parent / "r.html").read_text(encoding="utf-8").rstrip().endswith("</html>")


def test_importing_the_package_loads_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys, aigc_edge; print(' '.join(sorted(name.split('.')[0] for name in sys.modules)))"
    loaded = set(subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, text=True).split())
    assert not loaded & {
        "torch",
        "onnxruntime",
        "onnx",
        "PIL",
        "sklearn",
        "tensorrt",
        "tensorrt_rtx",
        "diffusers",
        "scipy",
        "numpy",
    }


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys; from aigc_edge.cli import build_parser; build_parser().format_help(); print(' '.join(sys.modules))"
    loaded = {
        name.split(".")[0] for name in subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, text=True).split()
    }
    assert not loaded & {"torch", "onnxruntime", "onnx", "PIL", "sklearn", "numpy"}
