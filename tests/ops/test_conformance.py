"""Every op found by the scan, on every kernel that this machine can run, against its reference in float64.

A kernel may err at most twice as much as the plain NumPy implementation in the same dtype (the reference in float32) does on the
same arguments, taken over several draws of them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from aigc_edge import ops

core = pytest.importorskip("aigc_edge._core")
DRAWS = 5
KERNELS = [*core.isas(), "cuda"]


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "cuda":
        if reason := core.cuda_unavailable():
            pytest.skip(reason)
        yield "cuda"
        return
    before = core.isa()
    core.set_isa(request.param)
    yield request.param
    core.set_isa(before)


def widened(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """A copy of the arguments with every floating array in float64: on these the reference computes the truth."""
    is_float = [isinstance(a, np.ndarray) and a.dtype.kind == "f" for a in arguments]
    return tuple(a.astype(np.float64) if f else copy.deepcopy(a) for a, f in zip(arguments, is_float, strict=True))


def run_kernel(name: str, kernel: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Run the native op on a copy of the arguments and return the copy."""
    own = copy.deepcopy(arguments)
    if kernel != "cuda":
        core.op(name)(*own)
        return own
    torch = pytest.importorskip("torch")
    types = ops.OPS[name].types.values()
    on_device = [isinstance(a, np.ndarray) and "host" not in t for a, t in zip(own, types, strict=True)]
    moved = tuple(torch.from_numpy(a).cuda() if d else a for a, d in zip(own, on_device, strict=True))
    core.op(name)(*moved)
    return tuple(a.cpu().numpy() if d else a for a, d in zip(moved, on_device, strict=True))


def results(name: str, arguments: tuple[Any, ...]) -> list[np.ndarray]:
    return [a for a, t in zip(arguments, ops.OPS[name].types.values(), strict=True) if "out " in t and a is not None]


def error(found: np.ndarray, truth: np.ndarray) -> float:
    """How wrong a result is: the largest difference, or of rounded bytes the number that differ; other integers must be exact."""
    if truth.dtype == np.uint8:
        assert np.abs(found.astype(int) - truth.astype(int)).max(initial=0) <= 1
        return float(np.count_nonzero(found != truth))
    if truth.dtype.kind != "f":
        np.testing.assert_array_equal(found, truth)
        return 0.0
    finite = np.isfinite(truth)
    np.testing.assert_array_equal(found[~finite].astype(np.float64), truth[~finite])
    return float(np.abs(found[finite].astype(np.float64) - truth[finite]).max(initial=0.0))


def floor(found: np.ndarray, truth: np.ndarray) -> float:
    """One unit in the last place of the largest result; for rounded bytes two ties, which may fall either way."""
    if truth.dtype.kind != "f":
        return 2.0 if truth.dtype == np.uint8 else 0.0
    return float(np.finfo(found.dtype).eps * np.abs(truth[np.isfinite(truth)]).max(initial=0.0))


def errors(name: str, kernel: str, variants: Sequence[tuple[Any, ...]]) -> list[tuple[float, float, float]]:
    """For each result of one case: the largest error of the kernel and of NumPy in float32 over all draws, and the floor."""
    found = []
    for arguments in variants:
        truth, plain = widened(arguments), copy.deepcopy(arguments)
        ops.OPS[name].reference(*truth)
        ops.OPS[name].reference(*plain)
        native = run_kernel(name, kernel, arguments)
        triples = zip(*(results(name, a) for a in (native, plain, truth)), strict=True)
        found.append([(error(n, t), error(p, t), floor(n, t)) for n, p, t in triples])
    return [tuple(max(values) for values in zip(*draws, strict=True)) for draws in zip(*found, strict=True)]


@pytest.mark.parametrize("name", ops.OPS)
def test_a_kernel_errs_at_most_twice_as_much_as_numpy_in_float32(name: str, kernel: str, fresh_seed: int) -> None:
    draws = [list(ops.MODULES[name].samples(np.random.default_rng([fresh_seed, draw]))) for draw in range(DRAWS)]
    for case, variants in enumerate(zip(*draws, strict=True)):
        for native, plain, slack in errors(name, kernel, variants):
            shapes = [a.shape if isinstance(a, np.ndarray) else a for a in variants[0]]
            assert native <= 2 * plain + slack, f"case {case} {shapes}: the kernel errs by {native:.3g}, NumPy by {plain:.3g}"


@pytest.mark.parametrize("name", ops.OPS)
def test_inputs_are_left_alone(name: str, kernel: str, fresh_seed: int) -> None:
    for arguments in ops.MODULES[name].samples(np.random.default_rng(fresh_seed)):
        found = run_kernel(name, kernel, arguments)
        for before, after, kind in zip(arguments, found, ops.OPS[name].types.values(), strict=True):
            if isinstance(before, np.ndarray) and "out " not in kind:
                np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("name", ops.OPS)
def test_the_native_parameters_are_the_references(name: str) -> None:
    assert list(core.ops()[name].items()) == list(ops.OPS[name].types.items())


def test_the_scan_finds_exactly_the_native_ops() -> None:
    assert set(core.ops()) == set(ops.OPS)
    assert all(isinstance(module, ModuleType) for module in ops.MODULES.values())
