"""What a format's quality was measured with, and its quality with floats in half precision where this CPU has it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from aigc_edge import hardware
from aigc_edge.compile.evaluator import Evaluator, engine_of
from aigc_edge.compile.request import REFERENCE
from aigc_edge.compile.state import CompileState
from aigc_edge.compress.budget import Budget
from aigc_edge.compress.evaluation.quality import Requirement
from aigc_edge.engines.base import ENGINES
from aigc_edge.engines.formats import least_capability
from aigc_edge.errors import AigcEdgeError
from aigc_edge.runtime.precision import REDUCED, precisions

if TYPE_CHECKING:
    from collections.abc import Mapping

HALF_PSNR = 30.0  # dB that fp32, and formats without limits, have to hold in half precision, as the formats fp16 and bf16 have


def measured_with(format: str) -> dict[str, Any]:
    """The engine with its version, the architecture and the CPU's instruction sets, for the quality card."""
    engine = engine_of(format)
    try:
        name = f"{engine} {version(engine)}"
    except PackageNotFoundError:
        name = engine
    return {"engine": name, "architecture": platform.machine(), "instructions": list(hardware.instruction_sets())}


def measure_precisions(
    state: CompileState, evaluator: Evaluator, name: str, budget: Budget, exact: Mapping[str, Any]
) -> dict[str, Any]:
    """By reduced precision: figures by engine with whether the budget holds ("passed"), or why nothing was measured.

    fp32 with exact arithmetic is what all are compared with. A Fréchet distance is not part of this: no judge scores them.
    """
    from aigc_edge.compress.format import FORMATS

    own = Budget(budget.psnr, None, budget.centred_l2, budget.ssim)
    own = own if own.words else own.completed(Requirement(HALF_PSNR))  # nothing would be judged otherwise
    found: dict[str, Any] = {}
    for precision in REDUCED:
        if not hardware.half_precision(precision):
            found[precision] = f"not measured with {precision}: the CPU lacks {hardware.lacking(precision)}"
            continue
        cards: dict[str, Any] = {}
        for engine in ENGINES:
            kind = ENGINES[engine]
            if not kind.auto or kind.unavailable() is not None or precision not in precisions(kind):
                continue
            if least_capability(FORMATS[name], kind) != 0 or kind.deviates(name) is not None:
                continue
            draft = state.draft(list(dict.fromkeys([name, REFERENCE])))
            try:
                figures = evaluator.compare(draft, name, engine=engine, precision=precision)
            except AigcEdgeError as error:  # values that are not finite, or a network that the engine has no kernels for
                cards[engine] = {"passed": False, "reason": str(error)}
                continue
            cards[engine] = figures | {"passed": own.missed(figures, exact) is None, "n": len(evaluator.index)}
        found[precision] = cards or f"not measured with {precision}: no engine that computes in it is installed"
    return found
