"""The least time of an evaluation, by hand: each product at the rate of the type that its format multiplies in."""

from __future__ import annotations

import dataclasses

import pytest

from aigc_edge import targets
from aigc_edge.bundle import external
from aigc_edge.compress.format import parse
from aigc_edge.engines import prepacked
from aigc_edge.preflight import predict, processor
from aigc_edge.preflight.survey import Survey, Weight

LARGE = 10**12
WEIGHTS = (
    Weight("first", "Conv", 64, 27, 1 * LARGE),
    Weight("tokens", "Gemm", 64, 64, 2 * LARGE),
    Weight("odd", "Gemm", 64, 63, 4 * LARGE),
    Weight("vector", "Gemm", 512, 64, 512 * 64),
    Weight("image", "Conv", 64, 576, 8 * LARGE),
    Weight("last", "Gemm", 64, 64, 16 * LARGE),
)
SURVEY = Survey("denoiser", WEIGHTS, 0, 32 * LARGE, 1, 1)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("fp16", {"fp16": 63}),
        ("fp8", {"fp8": 63}),
        ("int8", {"int8": 63}),
        ("nvfp4", {"fp16": 63}),
        ("nvfp4:activations=fp4", {"fp4": 2, "fp16": 61}),
    ],
)
def test_products_take_their_rate(text: str, share: dict[str, int]) -> None:
    target = targets.get("rtx-50")
    seconds, bound = predict.evaluation(SURVEY, parse(text), target)
    assert target.tops is not None
    assert seconds == pytest.approx(sum(2 * part * LARGE / (target.tops[kind] * 1e12) for kind, part in share.items()), rel=1e-6)
    assert bound == "arithmetic"


def test_what_a_target_has_no_rate_for_is_moved_only() -> None:
    assert predict.evaluation(SURVEY, parse("nvfp4:activations=fp4"), targets.get("h100"))[1] == "bandwidth"
    assert predict.evaluation(SURVEY, parse("nvfp4"), targets.get("x86-cpu")) == (None, None)


@pytest.mark.parametrize(
    ("text", "fp32", "int8"), [("fp32", 63, 0), ("fp16", 63, 0), ("int8", 0, 63), ("int4", 63, 0), ("fp8", 63, 0)]
)
def test_a_cpu_multiplies_floats_in_fp32(text: str, fp32: int, int8: int) -> None:
    """What is stored in few bits and has no kernel there is read as floats too."""
    cpu = dataclasses.replace(targets.get("x86-cpu"), tops={"fp32": 2.0, "int8": 8.0}, figures="here", bandwidth_gbs=1e9)
    for batch in (1, 2.5):
        seconds, bound = predict.evaluation(SURVEY, parse(text), cpu, batch)
        assert seconds == pytest.approx(batch * sum(2 * part / rate for part, rate in ((fp32, 2.0), (int8, 8.0))), rel=1e-6)
        assert bound == "arithmetic"
    slow = dataclasses.replace(cpu, bandwidth_gbs=1e-9)  # a byte a second
    seconds, bound = predict.evaluation(SURVEY, parse(text), slow)
    stored = predict.file_bytes(SURVEY, parse("int8" if text == "int8" else "fp32"))
    assert (seconds, bound) == (pytest.approx(stored, rel=0.02), "bandwidth")


def plausible(found: targets.Target) -> bool:
    """Whether one thread of a real machine, busy or not, can be that fast: a figure in another unit cannot."""
    rates, bandwidth = found.tops or {}, found.bandwidth_gbs or 0
    return set(rates) == {"fp32", "int8"} and 5e-4 < rates["fp32"] < 1 and 5e-4 < rates["int8"] < 20 and 0.2 < bandwidth < 500


def test_the_processor_here_is_measured() -> None:
    cpu = targets.get("x86-cpu")
    found = processor.measured(cpu, 1)
    assert found.tops is not None
    assert plausible(found)
    for wrong in (1e-3, 1e3):
        assert not plausible(dataclasses.replace(found, tops={name: rate * wrong for name, rate in found.tops.items()}))
        assert not plausible(dataclasses.replace(found, bandwidth_gbs=(found.bandwidth_gbs or 0) * wrong))
    assert found.memory_gb is None or found.memory_gb > 0.5
    assert found.figures == "measured here, 1 thread"
    assert dataclasses.replace(found, tops=None, bandwidth_gbs=None, memory_gb=None, figures="") == cpu


def test_a_rate_is_work_by_time_and_bandwidth_counts_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_product", lambda operator, *_: {"MatMul": 0.5, "MatMulInteger": 0.125}[operator])
    monkeypatch.setattr(processor, "_reads", lambda threads: 2.0)
    found = processor.measured(targets.get("x86-cpu"), 3)
    assert found.tops == pytest.approx({"fp32": 2 * 1024**3 / 0.5e12, "int8": 2 * 1024**3 / 0.125e12})
    assert found.bandwidth_gbs == pytest.approx(2**26 * 3 / 2e9)
    assert found.figures == "measured here, 3 threads"


def test_weights_apart_are_mapped_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [Survey(name, (Weight("w", "Gemm", 4096, 4096, LARGE),), 0, LARGE, 1, 1) for name in ("denoiser", "decoder")]
    formats = {part.component: parse("fp32") for part in parts}
    files = {"denoiser": 4 * 4096**2, "decoder": 4 * 4096**2}

    def both() -> tuple[int, int]:
        return predict.running_bytes(parts, files, formats, 1), predict.compiling_bytes(parts)

    inside = both()
    monkeypatch.setattr(external, "ABOVE", files["denoiser"] - 1)
    apart = both()
    assert apart[0] < inside[0], "no message is read"
    assert inside[1] - apart[1] > 2 * files["denoiser"]


def test_what_is_kept_is_mapped_and_one_network_is_opened_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    part = Survey("denoiser", (Weight("w", "Conv", 4096, 4096, LARGE),), 0, LARGE, 1, 1)
    size, fp32 = 4 * 4096**2, parse("fp32")

    def memory(*names: str) -> int:
        parts = [dataclasses.replace(part, component=name) for name in names]
        return predict.running_bytes(parts, dict.fromkeys(names, size), dict.fromkeys(names, fp32), 1)

    more = memory("a", "b", "c") - memory("a", "b")
    assert more == pytest.approx(predict.SESSION_BYTES + size, rel=1e-6), "a further one adds what is mapped of it"
    assert memory("a") > predict.PROCESS_BYTES + 2 * size
    monkeypatch.setattr(prepacked, "MIN_BYTES", 2 * size)
    assert memory("a", "b", "c") - memory("a", "b") > more + size


def test_formats_say_what_they_ask_of_a_target() -> None:
    assert [parse(text).asked for text in ("nvfp4", "nvfp4:activations=fp4", "int8")] == ["nvfp4", "w4a4", "int8"]
