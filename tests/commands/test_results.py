"""What the commands do when all is well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import aigc_edge


def test_sample_writes_what_the_pipeline_draws(cli: Any, own_bundle: Path, rng: np.random.Generator) -> None:
    seed, folder = int(rng.integers(2**63)), own_bundle.parent
    options = f"-n 5 --class 3,8 --seed {seed} --steps 4 --solver euler --guidance 1.5 --threads 1".split()
    done = cli.run("sample", own_bundle.name, *options, "--npz", "x.npz", "--png", "x.png")
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


def test_long_calls_continue_the_seeds(cli: Any, own_bundle: Path) -> None:
    from aigc_edge.commands.sample import CHUNK

    count, top = CHUNK + 2, 2**64 - 1  # the seeds pass 2^64 and go on from 0
    done = cli.run("sample", own_bundle.name, "-n", str(count), "--seed", str(top), "--steps", "1", "--npz", "x.npz")
    assert done.returncode == 0, done.stderr
    seeds = [(top + i) % 2**64 for i in range(count)]
    stored = np.load(own_bundle.parent / "x.npz")
    np.testing.assert_array_equal(stored["seeds"], np.array(seeds, dtype=np.uint64))
    with aigc_edge.open(own_bundle) as pipeline:
        np.testing.assert_array_equal(stored["images"], pipeline.sample(count, seeds=seeds, steps=1))


def test_inspect_says_what_the_manifest_says(cli: Any, own_bundle: Path) -> None:
    manifest = json.loads((own_bundle / "manifest.json").read_text(encoding="utf-8"))
    said = json.loads(cli.run("inspect", own_bundle.name, "--json").stdout)
    assert {key: said[key] for key in manifest} == manifest
    text = cli.run("inspect", own_bundle.name).stdout
    assert max(len(line) for line in text.splitlines()) <= 100
    assert f"all {len(manifest['files'])} files match" in text
    for part in [*manifest["programs"], *next(iter(manifest["components"].values()))["formats"], manifest["family"]]:
        assert part in text


def test_inspect_prints_a_program(cli: Any, own_bundle: Path) -> None:
    from aigc_edge.diffusion import Program, format_table

    manifest = json.loads((own_bundle / "manifest.json").read_text(encoding="utf-8"))
    name = manifest["default_program"]
    table = cli.run("inspect", own_bundle.name, "--program", name).stdout
    assert table == f"{format_table(Program.from_json(manifest['programs'][name]))}\n"
    rows = cli.run("inspect", own_bundle.name, "--program", "default", "--json").stdout
    assert json.loads(rows) == manifest["programs"][name]


def test_bench_writes_its_figures(cli: Any, own_bundle: Path) -> None:
    options = ("--runs", "2", "--batch", "2", "--warmup", "0", "--cold-starts", "0", "--quality-images", "0", "--formats", "fp32")
    done = cli.run("bench", own_bundle.name, *options, "--json", "b.json", "--html", "r.html")
    assert done.returncode == 0, done.stderr
    figures = json.loads((own_bundle.parent / "b.json").read_text(encoding="utf-8"))
    for row in figures["configurations"]:
        assert len(row["latency"]["1"]["samples"]) == 2
        assert f"{row['title']} fp32" in done.stdout
    assert (own_bundle.parent / "r.html").read_text(encoding="utf-8").rstrip().endswith("</html>")


@pytest.mark.parametrize("command", ["sample", "bench"])
def test_a_gpu_that_is_not_there_is_refused(cli: Any, own_bundle: Path, command: str) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    engine = ("--engine", "torch") if command == "sample" else ()
    cli.refuse(command, own_bundle.name, "--device", "cuda", *engine, says=("device='cuda' was requested", "no GPU"))


def test_sample_takes_noise_rescale_and_a_negative_class(cli: Any, own_bundle: Path) -> None:
    options = "-n 2 --class 3 --negative-class 8 --rescale 0.5 --noise numpy --solver euler_ancestral --steps 4 --threads 1"
    done = cli.run("sample", own_bundle.name, *options.split(), "--seed", "5", "--npz", "x.npz")
    assert done.returncode == 0, done.stderr
    with aigc_edge.open(own_bundle, threads=1) as pipeline:
        given = {"solver": "euler_ancestral", "steps": 4, "seed": 5, "classes": 3}
        wanted = pipeline.sample(2, negative_classes=8, guidance_rescale=0.5, noise="numpy", **given)
        assert not np.array_equal(wanted, pipeline.sample(2, **given))
    np.testing.assert_array_equal(np.load(own_bundle.parent / "x.npz")["images"], wanted)
