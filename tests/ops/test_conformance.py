"""Every discovered op, on every kernel that this machine can run, against its reference in float64.

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
Arguments = dict[str, Any]
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


def widened(arguments: Arguments) -> Arguments:
    """A copy of the arguments with every floating array in float64: on these the reference computes the exact results."""
    return {
        name: value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else copy.deepcopy(value)
        for name, value in arguments.items()
    }


def run_kernel(name: str, kernel: str, arguments: Arguments) -> Arguments:
    """Run the native op on a copy of the arguments and return the copy."""
    own = copy.deepcopy(arguments)
    if kernel != "cuda":
        core.op(name)(**own)
        return own
    torch = pytest.importorskip("torch")
    types = ops.OPS[name].types
    device = {key: torch.from_numpy(a).cuda() for key, a in own.items() if isinstance(a, np.ndarray) and "host" not in types[key]}
    core.op(name)(**own | device)
    return own | {key: tensor.cpu().numpy() for key, tensor in device.items()}


def results(name: str, arguments: Arguments) -> list[np.ndarray]:
    return [a for key, a in arguments.items() if "out " in ops.OPS[name].types[key] and a is not None]


def error(actual: np.ndarray, truth: np.ndarray) -> float:
    """How wrong a result is: the largest difference, or of rounded bytes the number that differ; other integers must be exact."""
    if truth.dtype == np.uint8:
        assert np.abs(actual.astype(int) - truth.astype(int)).max(initial=0) <= 1
        return float(np.count_nonzero(actual != truth))
    if truth.dtype.kind != "f":
        np.testing.assert_array_equal(actual, truth)
        return 0.0
    finite = np.isfinite(truth)
    np.testing.assert_array_equal(actual[~finite].astype(np.float64), truth[~finite])
    return float(np.abs(actual[finite].astype(np.float64) - truth[finite]).max(initial=0.0))


def floor(actual: np.ndarray, truth: np.ndarray) -> float:
    """One unit in the last place of the largest result; for rounded bytes two ties, which may fall either way."""
    if truth.dtype.kind != "f":
        return 2.0 if truth.dtype == np.uint8 else 0.0
    return float(np.finfo(actual.dtype).eps * np.abs(truth[np.isfinite(truth)]).max(initial=0.0))


def errors(name: str, kernel: str, variants: Sequence[Arguments]) -> list[tuple[float, float, float]]:
    """For each result of one case: the largest error of the kernel and of NumPy in float32 over all draws, and the floor."""
    actual = []
    for arguments in variants:
        truth, plain = widened(arguments), copy.deepcopy(arguments)
        ops.OPS[name].reference(**truth)
        ops.OPS[name].reference(**plain)
        native = run_kernel(name, kernel, arguments)
        triples = zip(*(results(name, a) for a in (native, plain, truth)), strict=True)
        actual.append([(error(n, t), error(p, t), floor(n, t)) for n, p, t in triples])
    return [tuple(max(values) for values in zip(*draws, strict=True)) for draws in zip(*actual, strict=True)]


@pytest.mark.parametrize("name", ops.OPS)
def test_a_kernel_errs_at_most_twice_as_much_as_numpy_in_float32(name: str, kernel: str, fresh_seed: int) -> None:
    draws = [list(ops.MODULES[name].samples(np.random.default_rng([fresh_seed, draw]))) for draw in range(DRAWS)]
    for case, variants in enumerate(zip(*draws, strict=True)):
        for native, plain, slack in errors(name, kernel, variants):
            shapes = {key: a.shape if isinstance(a, np.ndarray) else a for key, a in variants[0].items()}
            assert native <= 2 * plain + slack, f"case {case} {shapes}: the kernel errs by {native:.3g}, NumPy by {plain:.3g}"


@pytest.mark.parametrize("name", ops.OPS)
def test_inputs_are_left_alone(name: str, kernel: str, fresh_seed: int) -> None:
    for arguments in ops.MODULES[name].samples(np.random.default_rng(fresh_seed)):
        after = run_kernel(name, kernel, arguments)
        for key, before in arguments.items():
            if isinstance(before, np.ndarray) and "out " not in ops.OPS[name].types[key]:
                np.testing.assert_array_equal(before, after[key])


@pytest.mark.parametrize("name", ops.OPS)
def test_the_native_parameters_are_the_references(name: str) -> None:
    assert list(core.ops()[name].items()) == list(ops.OPS[name].parameters.items())


def test_the_discovered_ops_are_exactly_the_native_ops() -> None:
    assert set(core.ops()) == set(ops.OPS)
    assert all(isinstance(module, ModuleType) for module in ops.MODULES.values())
