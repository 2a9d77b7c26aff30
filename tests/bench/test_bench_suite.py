"""The benchmark on the small bundle: peers draw the same images, figures are what they say they are."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aigc_edge
from aigc_edge.bench import child, quality, report, runner, suite
from aigc_edge.bench.statistics import compare
from aigc_edge.errors import AigcEdgeError

PEERS = ("numpy-fp32", "torch-fp32", "diffusers-fp32")


@pytest.fixture(scope="module")
def workload(tiny_bundle: Path) -> runner.Workload:
    return runner.open_workload(str(tiny_bundle), None, None, None, 1)


@pytest.fixture(scope="module")
def measured(workload: runner.Workload) -> dict[str, Any]:
    settings = suite.Settings(runs=4, batch=3, warmup=1, cold_starts=0, quality_images=40)
    return json.loads(json.dumps(suite.bench(workload, settings), allow_nan=False))  # as a reader of the JSON sees it


def rows(figures: dict[str, Any]) -> dict[str, Any]:
    return {row["key"]: row for row in figures["configurations"]}


@pytest.mark.parametrize("solver", ["dpmpp_2m", "euler", "heun"])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_every_way_draws_the_same_images(tiny_bundle: Path, solver: str, guidance: float, rng: np.random.Generator) -> None:
    workload = runner.open_workload(str(tiny_bundle), solver, 6, guidance, 1)
    chosen, left_out = suite.choose(workload, ["fp32"])
    assert set(left_out) <= ({"diffusers"} if solver == "heun" else set())
    with runner.opened(workload, [runner.key(w, f) for w, f in chosen]) as runners:
        agrees = quality.agreement(runners, workload, 4, int(rng.integers(2**31)))
    assert set(agrees) == {key for key in PEERS if key.partition("-")[0] not in left_out}
    for figures in agrees.values():  # float32 in another order of operations: at most a pixel on the edge between two levels
        assert figures["largest_difference"] <= 1
        assert figures["psnr"] is None or figures["psnr"] > 60


def test_native_is_the_public_call(workload: runner.Workload, rng: np.random.Generator) -> None:
    seed, labels = int(rng.integers(2**31)), workload.labels(5)
    with runner.opened(workload, ["native-fp32"]) as runners:
        drawn = runners["native-fp32"].generate(5, seed, labels)
        loop, network = runners["native-fp32"].seconds() or (0.0, 0.0)
        assert 0 < network < loop
    with aigc_edge.open(workload.bundle, format="fp32", threads=1) as pipeline:
        np.testing.assert_array_equal(drawn, pipeline.sample(5, seed=seed, classes=labels))


def test_network_alone_evaluates_as_often_as_the_program(workload: runner.Workload) -> None:
    with runner.opened(workload, ["network-fp32"]) as runners:
        floor, calls = runners["network-fp32"], []
        floor.generate(2, 0, None)
        floor._bound = {batch: lambda batch=batch: calls.append(batch) for batch in floor._bound}  # type: ignore[attr-defined]
        floor.generate(2, 0, None)
    assert calls == [4 if workload.guided else 2] * workload.evaluations


def test_raw_samples_give_the_figures(measured: dict[str, Any]) -> None:
    found = rows(measured)
    assert {"native-fp32", "network-fp32", "numpy-fp32"} <= set(found)
    for row in found.values():
        for batch, latency in row["latency"].items():
            assert latency["n"] == len(latency["samples"]) == measured["settings"]["rounds"][batch]
            assert latency["median"] == pytest.approx(np.median(latency["samples"]))
            assert latency["images_per_second"] == pytest.approx(int(batch) / np.median(latency["samples"]))
        if row["runner"] == "native":
            one = row["latency"]["1"]
            whole, loop, network = (np.array(one[name]) for name in ("samples", "loop_samples", "network_samples"))
            assert np.all((network > 0) & (network < loop) & (loop < whole))
            assert one["outside_network"]["median"] == pytest.approx(np.median(1 - network / loop))
            assert one["outside_network_call"]["median"] == pytest.approx(np.median(1 - network / whole))
    for c in measured["comparisons"]:
        ours, theirs = (found[c[k]]["latency"][str(c["batch"])]["samples"] for k in ("ours", "theirs"))
        assert compare(ours, theirs) == {k: c[k] for k in ("ratio", "interval", "quartiles", "rounds", "verdict")}
    pairs = {(c["ours"], c["theirs"]) for c in measured["comparisons"]}
    assert {("native-fp32", peer) for peer in found if peer.endswith("fp32") and peer != "native-fp32"} <= pairs


def test_sizes_are_those_of_the_files(measured: dict[str, Any], workload: runner.Workload) -> None:
    assert rows(measured)
    for row in rows(measured).values():
        file = workload.network.file(row["format"])
        assert row["bytes"]["networks"] == (Path(workload.bundle) / file).stat().st_size


def test_quality_is_the_judges(measured: dict[str, Any], workload: runner.Workload) -> None:
    with quality.judge_of(workload) as judge:
        if judge is None:
            pytest.skip("the bundle has no judge")
        labels = workload.labels(40)
        with aigc_edge.open(workload.bundle, format="fp32", threads=1) as pipeline:
            scores = judge.score(pipeline.sample(40, seed=0, classes=labels), labels)
    found = rows(measured)["native-fp32"]["quality"]
    assert found["frechet"] == pytest.approx(scores["frechet"], rel=1e-6)
    assert found["class_accuracy"] == scores["class_accuracy"]
    assert found["n"] == 40


@pytest.mark.parametrize("key", ["native-fp32", "numpy-fp32"])
def test_cold_start_is_the_sum_of_its_parts(workload: runner.Workload, key: str) -> None:
    found = child.measure(workload, key, 3)
    parts, peaks = found["seconds"], found["peak_bytes"]
    assert parts["total"] == pytest.approx(sum(parts[stage] for stage in child.STAGES))
    assert all(parts[stage] > 0 for stage in child.STAGES)
    assert (Path(workload.bundle) / "denoiser.fp32.onnx").stat().st_size < peaks["1"] <= peaks["3"]


def test_peak_memory_counts_what_was_held_and_nothing_of_the_parent() -> None:
    parents = np.ones(30_000_000)  # 240 MB here must not show there
    code = (
        "from aigc_edge.bench.child import peak_bytes; a = peak_bytes(); x = bytearray(64 << 20); x[::4096] = b'1' * (16 << 10); "
        "del x; print(a, peak_bytes())"
    )
    before, after = map(int, subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert after - before == pytest.approx(64 << 20, rel=0.05)
    assert before < parents.nbytes / 2


def test_a_configuration_that_fails_alone_is_named(workload: runner.Workload) -> None:
    with pytest.raises(AigcEdgeError, match=r"native-fp99.*fp99"):
        child.measure(workload, "native-fp99", 2)


def test_an_unknown_format_is_a_sentence(workload: runner.Workload) -> None:
    with pytest.raises(AigcEdgeError, match=r"no format 'fp99'.*fp32"):
        suite.choose(workload, ["fp99"])


def test_grids_show_the_formats_and_how_far_apart_they_are(workload: runner.Workload) -> None:
    formats = list(workload.network.formats)
    pictures = report.sample_grids(workload, formats)
    assert list(pictures)[: len(formats)] == formats
    assert len(pictures) == len(formats) + (len(formats) > 1)
    assert all(png.startswith(b"\x89PNG") for png in pictures.values())


def test_on_a_gpu_only_ways_that_compute_there_are_measured(workload: runner.Workload) -> None:
    chosen, left_out = suite.choose(dataclasses.replace(workload, device="cuda"), [])
    assert [(kind.name, format, kind.engines["cuda"]) for kind, format in chosen] == [
        ("native", "fp32", "torch"),
        ("torch", "fp32", "torch"),
    ]
    assert left_out["numpy"] == left_out["network"] == "it computes on cpu only, not on cuda"
