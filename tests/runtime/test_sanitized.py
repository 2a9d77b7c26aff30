"""Damaged bundles meet a runtime built with AddressSanitizer and UndefinedBehaviorSanitizer: no access out of bounds, ever."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from aigc_edge.bundle.bundle import Bundle

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def open_all(tmp_path_factory):
    """The program that opens every path it is given."""
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    folder = tmp_path_factory.mktemp("sanitized")
    configure = [
        "cmake",
        "-S",
        ROOT / "tests/runtime/sanitized",
        "-B",
        folder,
        f"-DAIGC_EDGE_SOURCE={ROOT}",
        "-DCMAKE_BUILD_TYPE=Debug",
    ]
    for command in (configure, ["cmake", "--build", folder, "--parallel", "2", "--target", "open_all"]):
        result = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
    return folder / "open_all"


def run(program, paths):
    # An absurd size must come back as "memory ran out", as it does without the sanitizer.
    environment = os.environ | {"ASAN_OPTIONS": "allocator_may_return_null=1"}
    result = subprocess.run([program, *paths], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    return tuple(int(n) for n in result.stdout.split())


@pytest.mark.parametrize("kind", ["diffusion", "constants", "text"])
def test_damaged_archives(open_all, make_bundle, tmp_path, kind):
    rng = np.random.default_rng()
    Bundle.open(make_bundle(kind), verify=True).pack(tmp_path / "whole.aigc")
    whole = (tmp_path / "whole.aigc").read_bytes()
    paths = [tmp_path / "whole.aigc"]
    directory = whole.index(b"PK\x01\x02")  # most damage goes where the offsets and sizes stand
    for trial in range(400):
        data = bytearray(whole[: rng.integers(0, len(whole))] if trial % 4 == 0 else whole)
        low = directory if trial % 4 == 1 and len(data) == len(whole) else 0
        for at in rng.integers(low, max(len(data), low + 1), rng.integers(1, 6)):
            if at < len(data):
                data[at] = rng.choice([0, 255, rng.integers(256)])
        paths.append(tmp_path / f"damaged{trial}.aigc")
        paths[-1].write_bytes(bytes(data))
    opened, refused, sampled, conditioned = run(open_all, paths)
    assert opened + refused == 401
    assert opened >= 1
    assert (sampled == 0, conditioned >= 1) == ((True, True) if kind == "text" else (False, False))
    assert refused > 300


@pytest.mark.parametrize("kind", ["diffusion", "constants", "text"])
def test_damaged_manifests(open_all, make_bundle, tmp_path, kind):
    rng = np.random.default_rng()
    source = make_bundle(kind)
    text = (source / "manifest.json").read_bytes()
    numbers = [b"0", b"-1", b"1e308", b"9007199254740993", b"0.5", b"null", b'"N"', b"[]", b"{}", b"1e-400", b"2147483648"]
    digits = [i for i in range(len(text)) if text[i : i + 1].isdigit() and not text[i - 1 : i].isdigit()]
    paths = [source]
    for trial in range(300):
        data = bytearray(text)
        at = int(rng.choice(digits)) if trial % 2 else int(rng.integers(len(data)))
        end = at + 1
        while trial % 2 and data[end : end + 1].isdigit():
            end += 1
        data[at:end] = numbers[rng.integers(len(numbers))]
        paths.append(tmp_path / f"damaged{trial}.aigc")
        shutil.copytree(source, paths[-1], ignore=shutil.ignore_patterns("manifest*"))
        (paths[-1] / "manifest.json").write_bytes(bytes(data))
        (paths[-1] / "manifest.sha256").write_text(hashlib.sha256(data).hexdigest())
    opened, refused, sampled, conditioned = run(open_all, paths)
    assert opened + refused == 301
    assert opened >= 1
    assert (sampled == 0, conditioned >= 1) == ((True, True) if kind == "text" else (False, False))
    assert refused > 50
