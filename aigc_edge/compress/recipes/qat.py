"""Quantisation-aware training: weights and what is in float learn with the rounding of the format in the loop.

The converted network is trained as it is written (Jacob et al. 2018, arXiv 1712.05877): ranges and scales come from calibration
and stay, the weights behind their codes move (straight-through), towards the float32 network's answers along the trajectory.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from aigc_edge.compress.calibration.trajectory import Calibration, psnr
from aigc_edge.compress.evaluation.reference import HeldOutReference
from aigc_edge.compress.format import Format, Progress, convert
from aigc_edge.compress.graphs import graph
from aigc_edge.compress.graphs.folding import folded
from aigc_edge.compress.report import finite
from aigc_edge.compress.trainable.finetune import DistillationSet, FineTuneSettings, distillation_set, finetune
from aigc_edge.config import names
from aigc_edge.errors import AigcEdgeError, BudgetError

SLACK = 0.25  # dB: what the first guess of a mixture that training can repair is better by
LONGEST = 1800.0  # seconds that training may take each time that it is tried


def converted(
    format: Any,
    source: Path,
    out: Path,
    calibration: Calibration | None,
    progress: Progress | None,
    threads: int,
) -> dict[str, Any]:
    """Convert `source` to `format` and train it for `format.qat` steps; the budget has to hold after that; see formats.convert.

    All layers are tried first. When they miss the budget, so many return to float that what training gains makes up for the rest.
    The report has "qat": the steps, and the PSNR before and after them on noise that neither saw.
    """
    if calibration is None or len(calibration.latents) < 2:
        raise AigcEdgeError(
            f"{format.name} with training needs calibration data of at least 2 samples: give a Calibration (Calibration.draw "
            "makes one)"
        )
    tell = progress or (lambda stage, done, total: None)
    original = graph.load(source)
    proof = HeldOutReference(original, calibration, calibrates=True, threads=threads)
    tell("learn from fp32", 0, 1)
    given = distillation_set(original, calibration, threads=threads)
    tell("learn from fp32", 1, 1)
    tuning = FineTuneSettings(steps=format.qat, seconds=LONGEST)
    plain = replace(format, qat=0)
    least = format.psnr
    gain = 0.0
    with TemporaryDirectory(dir=out.parent, prefix=".qat-") as folder:
        part = Path(folder) / "part.onnx"
        for attempt in range(3):
            chosen = plain if attempt == 2 else _budget(plain, 0.0 if attempt == 0 else max(0.0, least - gain + SLACK))
            try:
                report = convert(chosen, source, part, calibration, progress=progress, threads=threads)
            except BudgetError:
                if attempt == 2:
                    raise
                continue
            model, before, after, taken = trained(graph.load(part), original, given, proof, tuning, tell)
            gain = after - before
            if after >= least:
                break
        else:
            raise BudgetError(
                f"{format.name} with {taken} steps of training reaches {after:.1f} dB (PSNR against fp32 from the same noise), "
                f"{least:.1f} dB was asked for: ask for less, train longer, or take another format"
            )
        network = _network(model, threads)
        report |= {"psnr": finite(after), "rows": proof.rows(network)}
        if "budget_psnr" in report:
            report["budget_psnr"] = least
        report["qat"] = {"steps": taken, "psnr_before": finite(before), "psnr_after": finite(after), "n": proof.n}
    graph.write(model, out)
    return report | {"bytes": graph.size_of(out)}


def trained(
    model: onnx.ModelProto,
    original: onnx.ModelProto,
    given: DistillationSet,
    proof: HeldOutReference,
    tuning: FineTuneSettings,
    tell: Progress,
) -> tuple[onnx.ModelProto, float, float, int]:
    """`model` trained, or as it was where that is better; its PSNR before and after; the steps taken."""
    limits = proof.calibration.limits
    before = psnr(proof.error(_network(model, proof.threads)), limits)
    made = finetune(
        model, given, tuning, latents=latents_of(model, original), tell=lambda *done: tell("train", *done), threads=proof.threads
    )
    after = psnr(proof.error(_network(made.model, proof.threads)), limits)
    return (made.model, before, after, made.steps) if after > before else (model, before, before, made.steps)


def latents_of(model: onnx.ModelProto, original: onnx.ModelProto) -> dict[str, npt.NDArray[np.float32]]:
    """What weights were rounded from, in units of their codes; of those that were changed before they were rounded: nothing."""
    weights = graph.initialisers(original)
    constants = graph.initialisers(model)
    found: dict[str, npt.NDArray[np.float32]] = {}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in constants:
            continue
        codes, scale = constants[node.input[0]].astype(np.float32), constants[node.input[1]].astype(np.float32)
        known = [name for name in weights if node.input[0].startswith(name) and weights[name].shape == codes.shape]
        if not known:
            continue
        axis = graph.attribute(node, "axis", 1) % max(codes.ndim, 1)
        block = graph.attribute(node, "block_size", 0)
        if block:
            scale = np.take(scale.repeat(block, axis=axis), range(codes.shape[axis]), axis=axis)
        elif scale.ndim == 1 and codes.ndim:
            scale = scale.reshape([-1 if i == axis else 1 for i in range(codes.ndim)])
        exact = weights[max(known, key=len)] / scale
        if np.mean(np.abs(exact - codes) <= 0.51) > 0.9:  # the others were clamped, and start from their codes
            found[node.input[0]] = np.where(np.abs(exact - codes) <= 0.51, exact, codes).astype(np.float32)
    return found


def _budget(format: Any, least: float) -> Format:
    given = {"psnr": least, "aim": 0.0, "rank": False}
    return replace(format, **{name: value for name, value in given.items() if name in names(type(format))})


def _network(model: onnx.ModelProto, threads: int) -> graph.Network:
    return graph.Network(folded(model), threads=threads, exact=True)
