"""The least time of an evaluation, by hand: each product at the rate of the type that its format multiplies in."""

from __future__ import annotations

import pytest

from aigc_edge import external, targets
from aigc_edge.compress.formats.base import parse
from aigc_edge.preflight import predict
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
    seconds, bound = predict.evaluation(SURVEY, parse(text), target, 1000)
    assert target.tops is not None
    assert seconds == pytest.approx(sum(2 * part * LARGE / (target.tops[kind] * 1e12) for kind, part in share.items()), rel=1e-6)
    assert bound == "arithmetic"


def test_what_a_target_has_no_rate_for_is_moved_only() -> None:
    assert predict.evaluation(SURVEY, parse("nvfp4:activations=fp4"), targets.get("h100"), 10**9)[1] == "bandwidth"
    assert predict.evaluation(SURVEY, parse("nvfp4"), targets.get("x86-cpu"), 10**9) == (None, None)


def test_weights_apart_are_mapped_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [Survey(name, (Weight("w", "Gemm", 4096, 4096, LARGE),), 0, LARGE, 1, 1) for name in ("denoiser", "decoder")]
    formats = {part.component: parse("fp32") for part in parts}
    files = {"denoiser": 4 * 4096**2, "decoder": 2 * 4096**2}

    def both() -> tuple[int, int]:
        return predict.running_bytes(parts, files, formats, 1), predict.compiling_bytes(parts)

    inside = both()
    monkeypatch.setattr(external, "ABOVE", files["denoiser"] - 1)
    apart = both()
    assert inside[0] - apart[0] == files["denoiser"] - files["decoder"]  # files that are read are read one after the other
    assert inside[1] - apart[1] > 2 * files["denoiser"]


def test_formats_say_what_they_ask_of_a_target() -> None:
    assert [parse(text).asked for text in ("nvfp4", "nvfp4:activations=fp4", "int8")] == ["nvfp4", "w4a4", "int8"]
