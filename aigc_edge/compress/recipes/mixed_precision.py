"""What formats with a quality budget share: measure, rank the layers, put back the fewest that hold the budget, report."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import onnx

from aigc_edge.compress.calibration.trajectory import Calibration, psnr
from aigc_edge.compress.evaluation import fallback
from aigc_edge.compress.evaluation.reference import HeldOutReference
from aigc_edge.compress.format import Format, Progress, convert
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.emulation import in_float32
from aigc_edge.compress.graphs.folding import folded
from aigc_edge.compress.graphs.graph import Layer
from aigc_edge.compress.report import finite, stamped
from aigc_edge.config import option
from aigc_edge.errors import AigcEdgeError, BudgetError


@dataclass(frozen=True)
class MixedPrecision(Format, ABC):
    """Options of every format that may leave layers in float, and what it says of itself.

    `least_sm` is the compute capability that TensorRT builds it from, `engines` those that run its file. `expected_psnr` is what
    a network reaches that is not ill-conditioned.
    """

    least_sm: ClassVar[int] = 75
    engines: ClassVar[tuple[str, ...]] = ("onnxruntime", "openvino", "tensorrt")
    expected_psnr: ClassVar[float] = 30.0

    psnr: float = option(30.0, "least PSNR (dB) of final samples against fp32 from the same noise", low=0)
    min_share: float = option(
        0.5, "least share of the weights in the format: below it the budget counts as missed", low=0, high=1
    )
    rank: bool = option(False, "measure every layer alone even when the budget holds without (for the report)")
    trials: int = option(64, "most measurements to rank layers with: more layers than that are ranked in groups", low=1)

    @property
    def calibrates(self) -> bool:
        """Whether the format looks at calibration data to convert a network, and not only to measure what that did."""
        return False

    @abstractmethod
    def recipe(self, model: onnx.ModelProto, proof: HeldOutReference | None) -> ConversionRecipe:
        """How `model` becomes one of this format; `proof` has the calibration, where there is any."""


class ConversionRecipe(ABC):
    """One network in one format: which layers it can store so, and the model with any choice of them."""

    name: str
    layers: list[Layer]
    small: list[Layer]  # stay in float: the format would save nothing there, or cannot hold them
    floats: str = "fp32"  # what the other layers stay in
    estimator: str | None = None  # how the scales were found

    @abstractmethod
    def build(self, layers: Sequence[Layer]) -> onnx.ModelProto:
        """The model with exactly `layers` in the format, as it is written."""

    @abstractmethod
    def bytes_of(self, layer: Layer) -> int:
        """What the layer's weight takes in the format."""

    def kind_of(self, layer: Layer) -> str:
        """The name of what the layer is stored in: some fit a neighbouring format better."""
        return self.name

    def details(self) -> dict[str, Any]:
        """What the report says beside what all formats say."""
        return {}

    def proven(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """What onnxruntime computes in place of `model` for the proof: the same values, in types that it has."""
        return in_float32(folded(model))


@convert.register
def compress(
    format: MixedPrecision,
    source: Path,
    out: Path,
    calibration: Calibration | None = None,
    *,
    progress: Progress | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    """Convert `source` by the format's recipe, write it to `out` and return the report; see formats.base.convert."""
    tell = progress or (lambda stage, done, total: None)
    name = format.name
    original = graph.load(source)
    _check(format, calibration)
    tell("reference", 0, 1)
    proof = None
    if calibration is not None:
        proof = HeldOutReference(
            original, calibration, calibrates=format.calibrates, threads=threads, tell=partial(tell, "calibrate")
        )
    tell("reference", 1, 1)
    recipe = format.recipe(original, proof)
    del original
    tell(name, 0, 1)
    report: dict[str, Any] = {"format": name, "source_bytes": graph.size_of(source), "psnr": None, "rows": []}
    kept, alone = recipe.layers, dict[str, float]()
    if proof is not None:
        kept, alone, figures = _chosen(format, recipe, proof, tell)
        report |= figures
    model = stamped(recipe.build(kept), name)
    if proof is not None:
        report["rows"] = proof.rows(graph.Network.made(lambda: recipe.proven(model), threads=threads, exact=True))
    tell(name, 1, 1)
    graph.write(model, out)
    report |= {"bytes": graph.size_of(out), "estimator": recipe.estimator, "nodes": _nodes(recipe, kept, alone)}
    return report | recipe.details()


def _check(format: MixedPrecision, calibration: Calibration | None) -> None:
    if not format.calibrates:
        return
    if calibration is None:
        raise AigcEdgeError(
            f"{format.name} needs calibration data: give a Calibration (Calibration.draw makes one from a sampling program)"
        )
    if len(calibration.latents) < 2:
        raise AigcEdgeError(
            f"{len(calibration.latents)} calibration samples given: {format.name} needs at least 2, one part to calibrate and "
            "one to measure on"
        )


def _chosen(
    format: MixedPrecision, recipe: ConversionRecipe, proof: HeldOutReference, tell: Progress
) -> tuple[list[Layer], dict[str, float], dict[str, Any]]:
    """The layers that stay in the format, the error of each alone where that was measured, and the figures for the report."""
    limits, measured = proof.calibration.limits, 0

    def network(layers: Sequence[Layer]) -> graph.Network:
        nonlocal measured
        measured += 1
        return graph.Network.made(lambda: recipe.proven(recipe.build(layers)), threads=proof.threads, exact=True)

    def quick(layers: Sequence[Layer]) -> float:
        return proof.quick(network(layers))

    def measure(layers: Sequence[Layer]) -> float:
        return proof.error(network(layers))

    everything = error = measure(recipe.layers)
    tell("measure", 1, 1)
    kept, alone = list(recipe.layers), dict[str, float]()
    missed = psnr(everything, limits) < format.psnr
    if missed and not recipe.layers:
        raise BudgetError(
            f"{format.name} reaches {psnr(everything, limits):.1f} dB with {recipe.floats} arithmetic alone, {format.psnr:.1f} "
            "dB was asked for: ask for less, or for floats=fp32"
        )
    if recipe.layers and (missed or format.rank):
        found = fallback.rank(recipe.layers, quick, everything, format.trials, lambda *done: tell("rank layers", *done))
        alone = found.alone
        if missed:
            target = (limits[1] - limits[0]) ** 2 / 10 ** (format.psnr / 10)
            kept, error = fallback.choose(
                recipe.layers, found, measure, target, format.min_share, limits, name=format.name, cost=_bytes
            )
    total = sum(layer.bytes for layer in [*recipe.layers, *recipe.small]) or 1
    if not math.isfinite(error):
        raise BudgetError(f"the network overflows in {format.name} (its result is not finite): take another format")
    figures = {
        "psnr": finite(psnr(error, limits)),
        "budget_psnr": format.psnr,
        "all_psnr": finite(psnr(everything, limits)),
        "share": sum(layer.bytes for layer in kept) / total,
        "n": proof.n,
        "trials": measured,
    }
    return kept, {name: math.sqrt(value) for name, value in alone.items()}, figures


def _bytes(layer: Layer) -> int:
    return layer.bytes


def _nodes(recipe: ConversionRecipe, kept: Sequence[Layer], alone: dict[str, float]) -> dict[str, Any]:
    """What became of every layer: its format, the relative L2 error of the network's output that it causes, bytes, macs."""
    names = {layer.name for layer in kept}
    each = 2 if recipe.floats in ("fp16", "bf16") else 1
    nodes: dict[str, Any] = {}
    for layer in [*recipe.layers, *recipe.small]:
        inside = layer.name in names
        nodes[layer.name] = {
            "format": recipe.kind_of(layer) if inside else recipe.floats,
            "error": finite(alone[layer.name]) if layer.name in alone else None,
            "bytes": recipe.bytes_of(layer) if inside else layer.bytes // each,
            "macs": layer.macs,
            "node": layer.node,
        }
    return nodes
