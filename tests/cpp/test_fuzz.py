"""The readers of a bundle's bytes under AddressSanitizer: every input of the corpus, then random changes of them for seconds.

`tests/cpp/fuzz` holds the targets; its CMakeLists.txt says how to run them for longer, and with clang's libFuzzer.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

TARGETS = ("json", "manifest", "program", "table", "zip")
SECONDS = 3
FUZZ = Path(__file__).parent / "fuzz"
MANIFESTS = Path(__file__).parents[1] / "bundle" / "manifests"


@pytest.fixture(scope="module")
def programs(native: Any) -> Path:
    """The folder of the programs, built with this machine's compiler."""
    folder = native.build(native.root / "build" / "tests-cpp", "-DAIGC_EDGE_TESTS=ON", "-DAIGC_EDGE_CUDA=OFF", targets=("fuzz",))
    return folder / "tests" / "cpp" / "fuzz"


def run(program: Path, folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"ASAN_OPTIONS": "allocator_may_return_null=1:detect_leaks=0"}
    words = [str(word) for word in (program, f"-max_total_time={SECONDS}", *arguments)]
    return subprocess.run(words, cwd=folder, text=True, capture_output=True, env=environment, timeout=300)


def corpora(target: str) -> list[Path]:
    """The folders of a target's inputs; those of manifests serve two readers."""
    return [MANIFESTS] if target == "manifest" else [FUZZ / "corpus" / target]


def test_every_target_has_a_source_and_a_corpus() -> None:
    assert {path.stem for path in FUZZ.glob("*.cpp")} == {*TARGETS, "driver", "planted"}
    assert {path.name for path in (FUZZ / "corpus").iterdir()} == {*TARGETS} - {"manifest"}
    assert all(any(folder.iterdir()) for target in TARGETS for folder in corpora(target))


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_but_a_refusal(programs: Path, target: str, tmp_path: Path) -> None:
    (tmp_path / "found").mkdir()  # where libFuzzer writes what it finds
    result = run(programs / f"fuzz_{target}", tmp_path, tmp_path / "found", *corpora(target))
    crash = next(iter(tmp_path.glob("crash-*")), None)
    assert result.returncode == 0, (result.stderr[-4000:], crash and crash.read_bytes())
    runs = re.search(r"Done (\d+) runs", result.stderr)
    assert runs is not None
    assert int(runs[1]) > sum(len(list(folder.iterdir())) for folder in corpora(target))


def test_a_planted_fault_is_found_and_its_input_kept(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "near").write_bytes(b"[[]")
    result = run(programs / "fuzz_planted", tmp_path, tmp_path / "inputs")
    assert result.returncode != 0
    assert "heap-buffer-overflow" in result.stderr
    (crash,) = tmp_path.glob("crash-*")
    assert b"[[[" in crash.read_bytes()
