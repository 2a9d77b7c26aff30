"""Formats with a quality budget: measure, rank the layers, let the fewest fall back to float that hold the budget, report."""

from __future__ import annotations

import contextlib
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import onnx

from aigc_edge.compress.calibration.trajectory import Calibration
from aigc_edge.compress.evaluation.fallback import FallbackBudget, Ranking, choose_layers
from aigc_edge.compress.evaluation.quality import Requirement
from aigc_edge.compress.evaluation.reference import HeldOutReference
from aigc_edge.compress.format import Format, Progress
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.graph import Layer
from aigc_edge.compress.recipes.recipe import ConversionRecipe, LayerEvaluator
from aigc_edge.compress.report import CompressionReport, LayerReport, stamped
from aigc_edge.compress.weight_share import weight_elements, weight_share
from aigc_edge.config import option
from aigc_edge.errors import BudgetError


@dataclass(frozen=True)
class MixedPrecision(Format):
    """Options of every format whose layers may fall back to float.

    `expected_psnr` is the PSNR that a well-conditioned network reaches, `alternative` what an error message recommends.
    """

    expected_psnr: ClassVar[float] = 30.0
    alternative: ClassVar[str] = "another format"

    psnr: float = option(30.0, "least PSNR (dB) of final samples against fp32 from the same noise", low=0)
    centred_l2: float = option(
        0.0, "largest error relative to what varies in the fp32 samples (mean removed); 0: 10^(1 − psnr/20)", low=0
    )
    min_share: float = option(
        0.5, "least share of the weights in the format: below it the budget counts as missed", low=0, high=1
    )
    rank: bool = option(False, "measure every layer alone even when the budget holds without (for the report)")
    trials: int = option(64, "most measurements to rank layers with: more layers than that are ranked in groups", low=1)

    @property
    def calibrates(self) -> bool:
        """Whether the format needs calibration data to convert a network, and not only to evaluate it."""
        return False

    @property
    def requirement(self) -> Requirement:
        """What the format has to hold."""
        return Requirement(self.psnr, self.centred_l2)

    @property
    def targets(self) -> list[tuple[Requirement, float]]:
        """What to hold and the share that has to stay in the format: of several, the first that can be held."""
        return [(self.requirement, self.min_share)]

    @abstractmethod
    def recipe(self, model: onnx.ModelProto, reference: HeldOutReference | None) -> ConversionRecipe:
        """How `model` is converted; `reference` is None without calibration data."""

    def prepare(self, model: onnx.ModelProto, calibration: Calibration | None, threads: int) -> onnx.ModelProto:
        """The float32 model that is converted and compared with."""
        return model

    def reference(
        self, model: onnx.ModelProto, calibration: Calibration, threads: int, progress: Callable[[int, int], None]
    ) -> HeldOutReference:
        """What the converted network is compared with."""
        return HeldOutReference(model, calibration, calibrates=self.calibrates, threads=threads, progress=progress)

    def converted(
        self, source: Path, calibration: Calibration | None, progress: Progress, threads: int
    ) -> tuple[onnx.ModelProto, CompressionReport]:
        conversion = convert_layers(self, source, calibration, progress, threads)
        return conversion.model, conversion.report


@dataclass
class Conversion:
    """A converted model that is not written yet, its report, and its recipe."""

    model: onnx.ModelProto
    report: CompressionReport
    recipe: ConversionRecipe


def convert_layers(
    format: MixedPrecision, source: Path, calibration: Calibration | None, progress: Progress, threads: int
) -> Conversion:
    """Convert the ONNX file `source` by the format's recipe, with as many layers in the format as the budget allows."""
    name = format.name
    original = graph.load(source)
    if format.calibrates:
        format.require(calibration)
    progress("reference", 0, 1)
    elements = weight_elements(original.graph)
    original = format.prepare(original, calibration, threads)
    reference = None
    if calibration is not None:
        reference = format.reference(original, calibration, threads, partial(progress, "calibrate"))
    progress("reference", 1, 1)
    recipe = format.recipe(original, reference)
    del original
    progress(name, 0, 1)
    report = CompressionReport(name, graph.size_of(source), engine=getattr(format, "engine", None))
    chosen, ranking = recipe.layers, Ranking(0.0)
    if reference is not None:
        chosen, ranking = _choose(format, recipe, reference, report, progress)
    model = stamped(recipe.build(chosen), name)
    report.weights, report.weight_share = elements, weight_share(chosen, elements, recipe.captured(model))
    if reference is not None:
        report.rows = reference.row_errors(recipe.network(lambda: model, threads))
    progress(name, 1, 1)
    report.estimator, report.nodes = recipe.estimator, _nodes(recipe, chosen, ranking)
    report.aimed_psnr = getattr(format, "aim", None)
    recipe.complete(report)
    return Conversion(model, report, recipe)


def _choose(
    format: MixedPrecision, recipe: ConversionRecipe, reference: HeldOutReference, report: CompressionReport, progress: Progress
) -> tuple[list[Layer], Ranking]:
    """The layers that stay in the format, and the errors that were measured; figures go into `report`."""
    evaluator = LayerEvaluator(recipe, reference)
    everything = error = recipe.fit(evaluator, progress)
    chosen, ranking = list(recipe.layers), Ranking(everything)
    missed = everything > min(reference.allowed_error(target) for target, _ in format.targets)
    if missed and not recipe.layers:
        raise BudgetError(
            f"{format.name} reaches {reference.describe(everything)} with {recipe.floats} arithmetic alone, {format.requirement} "
            "was requested: lower the budget, or use floats=fp32"
        )
    if recipe.layers and (missed or format.rank):
        ranking = recipe.rank(evaluator, everything, format.trials, partial(progress, "rank layers"))
    if missed:
        chosen, error = _hold(format, recipe, ranking, evaluator)
    if not math.isfinite(error):
        raise BudgetError(f"the network overflows in {format.name} (its result is not finite): use another format")
    report.psnr, report.budget_psnr, report.all_psnr = reference.psnr(error), format.psnr, reference.psnr(everything)
    report.centred_l2 = reference.centred_l2(error)
    report.share = _part(lambda layer: layer.bytes, chosen, [*recipe.layers, *recipe.float_layers])
    report.macs_share = _part(lambda layer: layer.macs, chosen, [*recipe.layers, *recipe.float_layers])
    report.n, report.trials = reference.n, evaluator.count
    return chosen, ranking


def _hold(
    format: MixedPrecision, recipe: ConversionRecipe, ranking: Ranking, evaluator: LayerEvaluator
) -> tuple[list[Layer], float]:
    """The layers in the format and the error, for the first of the format's targets that can be held."""
    budgets = [
        FallbackBudget(
            target=evaluator.reference.allowed_error(target),
            min_share=share,
            describe=evaluator.reference.describe,
            requested=str(target),
            name=format.name,
            cost=recipe.cost,
            cost_name=recipe.cost_name,
            alternative=format.alternative,
        )
        for target, share in format.targets
    ]
    for budget in budgets[:-1]:
        with contextlib.suppress(BudgetError):
            return choose_layers(recipe.layers, ranking, evaluator.sample_error, budget)
    return choose_layers(recipe.layers, ranking, evaluator.sample_error, budgets[-1])


def _part(size: Callable[[Layer], int], chosen: Sequence[Layer], layers: Sequence[Layer]) -> float:
    return sum(size(layer) for layer in chosen) / (sum(size(layer) for layer in layers) or 1)


def _nodes(recipe: ConversionRecipe, chosen: Sequence[Layer], ranking: Ranking) -> dict[str, LayerReport]:
    """What became of every layer."""
    names, each = {layer.name for layer in chosen}, 2 if recipe.floats in ("fp16", "bf16") else 1
    nodes: dict[str, LayerReport] = {}
    for layer in [*recipe.layers, *recipe.float_layers]:
        inside, error = layer.name in names, ranking.alone.get(layer.name)
        nodes[layer.name] = LayerReport(
            format=recipe.format_of(layer) if inside else recipe.floats,
            error=None if error is None else math.sqrt(error / ranking.scale),
            bytes=recipe.bytes_of(layer) if inside else layer.bytes // each,
            macs=layer.macs,
            node=layer.node,
        )
    return nodes
