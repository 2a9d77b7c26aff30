"""Speed of every op over its workloads, against the same in NumPy and torch, and against a copy of as many bytes.

    python -m pytest benchmarks/test_ops.py -s

Op, peers and copy take turns within one run, so that what else the machine does hits all alike; each line has medians, the spread
(half the distance of the quartiles, relative to the median) and ratios to the peers. One thread; absolute times are notes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from aigc_edge import ops

core = pytest.importorskip("aigc_edge._core")
ROUND_SECONDS, ROUNDS, BUDGET_SECONDS = 3e-4, 200, 3.0


def torch_randn(seeds: Any, draw: Any, out: Any) -> Callable[[], object]:
    return lambda: out.normal_()


def torch_latent_to_rgb8(images: Any, out: Any, scale: float = 127.5, bias: float = 127.5) -> Callable[[], object]:
    def run() -> object:
        return out.copy_((images * scale + bias).round_().clamp_(0, 255).permute(0, 2, 3, 1))

    return run


def torch_solver_step(slots: Any, output: Any, **others: Any) -> Callable[[], object]:
    """The same row as a careful person writes it in torch: one expression per slot, nothing computed twice."""
    after, noise, batch = others["after"].tolist(), others["after_noise"], slots.shape[1:]

    def run() -> object:
        network = output[0] if len(output) == 1 else output[1].lerp(output[0], others["guidance"])
        denoised = slots[0] * others["c_skip"] + network * others["c_out"]
        if others["clip_mode"]:
            denoised.clamp_(others["clip_low"], others["clip_high"])
        terms = [*slots, denoised]
        new = []
        for row in after:
            value = terms[0] * row[0]
            for weight, term in zip(row[1:], terms[1:], strict=True):
                value.add_(term, alpha=weight)
            new.append(value)
        if noise is not None:
            epsilon = slots.new_empty(batch).normal_()
            for value, weight in zip(new, noise.tolist(), strict=True):
                value.add_(epsilon, alpha=weight)
        for slot, value in enumerate(new):
            slots[slot] = value
        return others["net_input"].copy_(new[0] * others["c_in"])

    return run


def peers(name: str, arguments: dict[str, Any]) -> Iterator[tuple[str, Callable[[], object]]]:
    """The plain implementations: the reference in float32, the torch function above where torch is installed, and a copy."""
    op = ops.OPS[name]
    yield "numpy", lambda: op.reference(**arguments)
    in_torch = globals().get(f"torch_{name}")
    if in_torch is not None:
        torch = pytest.importorskip("torch")
        torch.set_num_threads(1)
        tensors = {k: a for k, a in arguments.items() if isinstance(a, np.ndarray) and "host" not in op.types[k]}
        yield "torch", in_torch(**arguments | {k: torch.from_numpy(a) for k, a in tensors.items()})
    source = np.ones(traffic(name, arguments) // 2, np.uint8)  # zeros would be one page of memory, read from a cache
    target = np.ones_like(source)
    yield "copy", lambda: np.copyto(target, source)


def traffic(name: str, arguments: dict[str, Any]) -> int:
    """Bytes that the op has to read and write."""
    types = ops.OPS[name].types
    return sum(a.nbytes * (2 if "inout" in types[k] else 1) for k, a in arguments.items() if isinstance(a, np.ndarray))


def interleaved(functions: dict[str, Callable[[], object]]) -> dict[str, np.ndarray]:
    """Seconds a call of each function, measured in turns."""
    repeats = {}
    for name, function in functions.items():
        function()  # first touch
        start = time.perf_counter()
        function()
        repeats[name] = max(1, int(ROUND_SECONDS / (time.perf_counter() - start + 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    end = time.perf_counter() + BUDGET_SECONDS
    while len(seconds["native"]) < ROUNDS and (time.perf_counter() < end or len(seconds["native"]) < 5):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                function()
            seconds[name].append((time.perf_counter() - start) / repeats[name])
    return {name: np.array(values) for name, values in seconds.items()}


CASES = [
    pytest.param(name, arguments, id=f"{name}-{label}")
    for name, module in ops.MODULES.items()
    for label, arguments in module.workloads(np.random.default_rng(0))
]


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_op(name: str, arguments: dict[str, Any], benchmark: Any, request: Any, capsys: pytest.CaptureFixture[str]) -> None:
    native = core.op(name)
    call = ops.OPS[name].__signature__.bind(**arguments)
    call.apply_defaults()
    values = call.args  # a call by position costs a microsecond or two less than one by keyword
    seconds = interleaved({"native": lambda: native(*values), **dict(peers(name, arguments))})
    medians = {peer: float(np.median(values)) for peer, values in seconds.items()}
    low, high = np.percentile(seconds["native"], [25, 75])
    gigabytes = traffic(name, arguments) / 1e9
    ratios = {peer: median / medians["native"] for peer, median in medians.items() if peer != "native"}
    benchmark.extra_info |= {"isa": core.isa(), "gb_per_s": gigabytes / medians["native"], "ratios": ratios}
    benchmark.pedantic(native, args=values, rounds=5, iterations=1)
    text = ", ".join(f"{ratio:.2f} x {peer}" for peer, ratio in ratios.items())
    time_text = f"{medians['native'] * 1e6:10.2f} us ± {(high - low) / 2 / medians['native']:4.0%}"
    with capsys.disabled():
        print(
            f"\n{request.node.callspec.id:42} {time_text} {gigabytes / medians['native']:6.1f} GB/s; speed {text} ({core.isa()})"
        )
