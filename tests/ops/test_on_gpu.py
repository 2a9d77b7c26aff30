"""Native kernels on a GPU: the same numbers as on the CPU, on the caller's stream, inside a CUDA graph. Needs torch with CUDA."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from aigc_edge import ops
from aigc_edge.errors import AigcEdgeError

core = pytest.importorskip("aigc_edge._core")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(
    bool(core.cuda_unavailable()) or not torch.cuda.is_available(), reason="needs a GPU, torch with CUDA and CUDA kernels"
)


def on_gpu(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """A copy of the arguments with all arrays on the GPU but those that the op reads in host memory."""
    types, own = ops.OPS[name].types, copy.deepcopy(arguments)
    return {k: torch.from_numpy(a).cuda() if isinstance(a, np.ndarray) and "host" not in types[k] else a for k, a in own.items()}


def differs(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether a result is further than 1e-6 of the largest value (half precision: also one rounding; bytes: one level)."""
    if wanted.dtype.kind != "f":
        return bool(np.abs(found.astype(np.int64) - wanted.astype(np.int64)).max(initial=0) > (wanted.dtype == np.uint8))
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    rounding = 0.0 if wanted.dtype == np.float32 else float(np.finfo(wanted.dtype).eps)
    largest = np.abs(b[np.isfinite(b)]).max(initial=0.0)
    with np.errstate(invalid="ignore"):
        return not bool((same | (np.abs(a - b) <= 1e-6 * largest + rounding * np.abs(b))).all())


@pytest.mark.parametrize("name", ops.OPS)
def test_cpu_and_cuda_agree_to_a_millionth(name: str, fresh_seed: int) -> None:
    for case, arguments in enumerate(ops.MODULES[name].samples(np.random.default_rng(fresh_seed))):
        host, device = copy.deepcopy(arguments), on_gpu(name, arguments)
        core.op(name)(**host)
        core.op(name)(**device)
        for key, tensor in device.items():
            if isinstance(tensor, torch.Tensor):
                assert not differs(tensor.cpu().numpy(), host[key]), f"case {case}, argument {key}"


def test_normals_do_not_depend_on_the_batch(fresh_seed: int) -> None:
    seeds = torch.from_numpy(np.random.default_rng(fresh_seed).integers(0, 2**64, 33, dtype=np.uint64)).cuda()
    whole, one = torch.empty(33, 12288, device="cuda"), torch.empty(1, 12288, device="cuda")
    ops.randn(seeds, 7, whole)
    for sample in (0, 5, 32):
        ops.randn(seeds[sample : sample + 1], 7, one)
        assert torch.equal(one[0], whole[sample])
    assert abs(float(whole.mean())) < 0.01
    assert abs(float(whole.std()) - 1) < 0.01


def test_kernels_run_on_the_current_stream(fresh_seed: int) -> None:
    seeds, side = torch.arange(2).cuda().view(torch.uint64), torch.cuda.Stream()
    wanted, busy = torch.empty(2, 4096, device="cuda"), torch.randn(4096, 4096, device="cuda")
    ops.randn(seeds, 0, wanted)
    out = torch.zeros_like(wanted)
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        for _ in range(20):
            busy = busy @ busy * 1e-2
        out.fill_(7.0)  # queued behind the products: a kernel on another stream would have run before it
        ops.randn(seeds, 0, out)
    side.synchronize()
    assert torch.equal(out, wanted)


def test_kernels_are_captured(fresh_seed: int) -> None:
    seeds, out = torch.zeros(2, dtype=torch.int64).cuda().view(torch.uint64), torch.empty(2, 100, device="cuda")
    ops.randn(seeds, 3, out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.randn(seeds, 3, out)
    for seed in np.random.default_rng(fresh_seed).integers(0, 2**62, 3):
        seeds.view(torch.int64).fill_(int(seed))
        out.zero_()
        graph.replay()
        host = np.empty((2, 100), np.float32)
        ops.randn(np.full(2, seed, np.uint64), 3, host)
        assert not differs(out.cpu().numpy(), host)


def test_tensors_of_two_places_are_refused() -> None:
    with pytest.raises(AigcEdgeError):
        ops.randn(np.zeros(2, np.uint64), 0, torch.empty(2, 8, device="cuda"))
    with pytest.raises(AigcEdgeError):
        ops.randn(torch.zeros(2, dtype=torch.int64).cuda().view(torch.uint64), 0, np.empty((2, 8), np.float32))
