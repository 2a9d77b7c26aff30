"""Structured pruning: whole inner channels go, the weights behind them are re-fitted, and the network learns to do without.

Any engine runs the smaller network faster. Chosen by activation × weight energy along the trajectory, re-fitted by least squares
(He, Zhang and Sun 2017, arXiv 1707.06168), fine-tuned by distillation from the float32 network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import onnx

from aigc_edge.compress.calibration.trajectory import Calibration, psnr
from aigc_edge.compress.channels.pruner import ChannelPruner
from aigc_edge.compress.evaluation.reference import HeldOutReference
from aigc_edge.compress.format import FORMATS, Format, Progress, convert
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.half import to_half
from aigc_edge.compress.graphs.weights import weights_of
from aigc_edge.compress.report import finite, stamped
from aigc_edge.compress.trainable.finetune import DistillationSet, FineTuned, FineTuneSettings, distillation_set, finetune
from aigc_edge.config import option
from aigc_edge.errors import AigcEdgeError, BudgetError

TRIES = 4  # halvings of the share when the budget is missed


@FORMATS.register("pruned")
@dataclass(frozen=True)
class Pruned(Format):
    """Options of structured pruning; what is left is stored in float."""

    name: ClassVar[str] = "pruned"
    companion: ClassVar[str | None] = "fp32"
    least_sm: ClassVar[int] = 80
    engines: ClassVar[tuple[str, ...]] = ("onnxruntime", "openvino", "tensorrt")
    expected_psnr: ClassVar[float] = 15.0

    share: float = option(0.25, "multiply-adds to remove, as a share; less where the budget asks for it", above=0, high=0.9)
    steps: int = option(1000, "most steps of fine-tuning; 0 = none", low=0)
    seconds: float = option(1800.0, "most time that fine-tuning may take, each time that it is tried", above=0)
    psnr: float = option(20.0, "least PSNR (dB) of final samples against fp32 from the same noise", low=0)
    multiple: int = option(
        8, "channels of wide layers go so many at a time: engines compute in blocks", choices=(1, 4, 8, 16, 32)
    )
    rate: float = option(1e-2, "size of the first steps of fine-tuning, relative to the weights", above=0, high=0.1)
    floats: str = option("fp32", "what the network is stored and computed in", choices=("fp32", "fp16"))

    def weight_bytes(self, outputs: int, inputs: int, edge: bool) -> int:
        """At most: which weights shrink is known when the channels have been measured."""
        return (2 if self.floats == "fp16" else 4) * outputs * inputs


@dataclass
class _Attempt:
    """A share of the multiply-adds, what was removed for it, and what came of that."""

    share: float
    removed: set[int]
    model: onnx.ModelProto
    before: float  # PSNR in dB, re-fitted but not fine-tuned
    after: float
    tuned: FineTuned | None


@convert.register
def _(
    format: Pruned,
    source: Path,
    out: Path,
    calibration: Calibration | None = None,
    *,
    progress: Progress | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    if calibration is None or len(calibration.latents) < 2:
        raise AigcEdgeError(
            "pruned needs calibration data of at least 2 samples: give a Calibration (Calibration.draw makes one from a sampling "
            "program)"
        )
    tell = progress or (lambda stage, done, total: None)
    tell("reference", 0, 1)
    original = graph.load(source)
    proof = HeldOutReference(original, calibration, calibrates=True, threads=threads)
    tell("reference", 1, 1)
    plan = ChannelPruner(original, proof, lambda *done: tell("rank channels", *done))
    plan.choose(format.share, format.multiple)  # a share that cannot be reached is known before the work begins
    tell("learn from fp32", 0, 1)
    given = distillation_set(original, calibration, threads=threads) if format.steps else None
    tell("learn from fp32", 1, 1)
    best = _search(format, plan, proof, given, tell)
    model = stamped(best.model, format.name)
    report = {
        "format": format.name,
        "source_bytes": graph.size_of(source),
        "psnr": finite(best.after),
        "budget_psnr": format.psnr,
        "psnr_before": finite(best.before),
        "steps": best.tuned.steps if best.tuned else 0,
        "share": 1.0 - plan.costs.macs(best.removed) / plan.total,
        "macs_before": int(plan.total),
        "macs": int(plan.costs.macs(best.removed)),
        "n": proof.n,
        "rows": proof.rows(graph.Network(model, threads=threads)),
        "groups": {
            group.name: {
                "channels": group.channels,
                "kept": sum(unit.channels for unit in group.units if unit.root not in best.removed),
            }
            for group in plan.groups
        },
        "nodes": _nodes(format, plan, best.removed),
    }
    graph.write(model, out)
    return report | {"bytes": graph.size_of(out)}


def _search(
    format: Pruned, plan: ChannelPruner, proof: HeldOutReference, given: DistillationSet | None, tell: Progress
) -> _Attempt:
    """The largest share that holds the budget, by halving; raises BudgetError when none of those tried does."""
    first = attempt = _attempt(format, format.share, plan, proof, given, tell)
    best, low, high = (attempt if attempt.after >= format.psnr else None), 0.0, format.share
    for _ in range(TRIES):
        if best is not None and best.share >= format.share:
            break
        middle = (low + high) / 2
        attempt = _attempt(format, middle, plan, proof, given, tell)
        if attempt.after >= format.psnr:
            best, low = attempt, middle
        else:
            high = middle
    if best is None:
        raise BudgetError(
            f"pruned reaches {first.after:.1f} dB (PSNR against fp32 from the same noise) with {first.share:.2f} of the "
            f"multiply-adds removed and {attempt.after:.1f} dB with {attempt.share:.2f}, {format.psnr:.1f} dB was asked for: to "
            f"blame are {plan.most_sensitive_layers(first.removed)}; ask for less, or fine-tune longer than {format.steps} steps"
        )
    return best


def _attempt(
    format: Pruned, share: float, plan: ChannelPruner, proof: HeldOutReference, given: DistillationSet | None, tell: Progress
) -> _Attempt:
    removed = plan.choose(share, format.multiple)
    model, limits = plan.build(removed), proof.calibration.limits
    before = after = _measured(format, model, proof, limits)
    tuned: FineTuned | None = None
    if given is not None:
        tuning = FineTuneSettings(steps=format.steps, seconds=format.seconds, rate=format.rate)
        tuned = finetune(model, given, tuning, tell=lambda *done: tell("fine-tune", *done), threads=proof.threads)
        after = _measured(format, tuned.model, proof, limits)
        model = tuned.model if after > before else model
    model = to_half(model) if format.floats == "fp16" else model
    return _Attempt(share, removed, model, before, max(before, after), tuned)


def _measured(format: Pruned, model: onnx.ModelProto, proof: HeldOutReference, limits: tuple[float, float]) -> float:
    shown = to_half(model) if format.floats == "fp16" else model
    return psnr(proof.error(graph.Network(shown, threads=proof.threads)), limits)


def _nodes(format: Pruned, plan: ChannelPruner, removed: set[int]) -> dict[str, Any]:
    """What became of every layer: bytes, multiply-adds, those before, and the error that losing half of its channels causes."""
    now = {layer.node: layer for layer in weights_of(plan.build(removed, refit=False))}
    errors = {group.name: group.error(0.5) for group in plan.groups}
    each = 2 if format.floats == "fp16" else 1
    nodes: dict[str, Any] = {}
    for before in plan.costs.layers.values():
        layer = now[before.node]
        nodes[before.name] = {
            "format": format.name if layer.bytes < before.bytes else format.floats,
            "error": finite(math.sqrt(errors[before.name])) if before.name in errors else None,
            "bytes": layer.bytes // each,
            "macs": layer.macs,
            "macs_before": before.macs,
        }
    return nodes
