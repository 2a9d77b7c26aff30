"""Which targets a machine is, by what its kernel and its driver say."""

from __future__ import annotations

import json

import pytest

from aigc_edge import targets
from aigc_edge.cli import main
from aigc_edge.engines.formats import formats_of
from aigc_edge.engines.plans.support import limits_of


@pytest.mark.parametrize(
    ("gpu", "sm", "memory", "expected"),
    [
        ("NVIDIA H200", 90, 150.1, "h200"),
        ("NVIDIA H100 80GB HBM3", 90, 85.0, "h100"),
        ("NVIDIA GeForce RTX 4090", 89, 25.4, "rtx-40"),
        ("NVIDIA GeForce RTX 4060 Laptop GPU", 89, 8.6, "rtx-40"),
        ("NVIDIA L4", 89, 23.7, "l4"),
        ("NVIDIA L40S", 89, 47.7, "l40s"),
        ("NVIDIA GeForce RTX 2080 Ti", 75, 11.5, "rtx-20"),
        ("NVIDIA A100-SXM4-80GB", 80, 85.0, "a100"),
        ("Orin", 87, 65.9, "jetson-orin-agx"),
        ("Orin", 87, 7.9, "jetson-orin-nano"),
        ("Orin", 87, 16.2, "jetson-orin-nx"),
        ("Graphics of tomorrow", 999, 1.0, None),
    ],
)
def test_a_gpu_is_found_by_name_then_by_memory(gpu: str, sm: int, memory: float, expected: str | None) -> None:
    assert targets.detect("aarch64", gpu, sm, memory) == ["arm-cpu", *([expected] if expected else [])]


def test_a_machine_without_a_gpu_is_its_cpu() -> None:
    assert targets.detect("x86_64") == ["x86-cpu"]
    assert targets.detect("riscv64") == []


def test_the_list_marks_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert max(map(len, printed)) <= 100
    lines = printed[: printed.index("")]
    assert {line[2:].split()[0] for line in lines[1:]} == set(targets.all_targets())
    formats = " ".join(printed)
    assert all(" ".join(formats_of(target)) in formats for target in targets.all_targets().values())
    assert main(["targets", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    for entry in listed:
        target = targets.get(entry["name"])
        assert entry["formats"] == list(formats_of(target))
        assert [limit["why"] for limit in entry["limits"]] == [limit.why for limit in limits_of(target)]
    marked = {line[2:].split()[0] for line in lines if line.startswith("* ")}
    assert {entry["name"] for entry in listed if entry["here"]} == marked
