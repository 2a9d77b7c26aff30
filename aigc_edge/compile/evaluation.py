"""Evaluate every format from the same noise with the runtime itself; convert those that miss the budget again, finer."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from aigc_edge.bundle.component import DECODER, DENOISER
from aigc_edge.bundle.inputs import APART
from aigc_edge.bundle.sizes import at, named
from aigc_edge.compile.calibrating import EVALUATION_MACS, sample_budget
from aigc_edge.compile.compressing import convert_format, weight_share
from aigc_edge.compile.conditions import conditions_of
from aigc_edge.compile.evaluator import Evaluator, draw, most_sensitive
from aigc_edge.compile.measured import HALF_PSNR, measure_precisions, measured_with
from aigc_edge.compile.output_range import warn_of_clamped
from aigc_edge.compile.request import REFERENCE
from aigc_edge.compile.sensitivity import Candidate, ComponentErrors, candidates
from aigc_edge.compile.state import CompileState
from aigc_edge.compress.evaluation.quality import Requirement
from aigc_edge.compress.evaluation.search import Trial, search
from aigc_edge.errors import BudgetError
from aigc_edge.images import grid, to_uint8, write_png
from aigc_edge.metrics.paired import compare

SIZE_SAMPLES, SIZE_MACS = 2, 3e12  # images at the largest other size, and the multiply-adds allowed for all formats together
PREVIEW_COLUMNS, PREVIEW_ROWS, PREVIEW_WIDTH = 8, 16, 1024  # maxima; the width is in pixels, with at least two columns
PREVIEW = "drawing the preview"  # name of a stage


def evaluate_formats(state: CompileState, samples: int) -> None:
    """Score fp32 and every derived format on `samples` images from the same noise, and enforce the budget.

    Formats that miss it are removed from the request and kept, with the reason, in `state.failed`.
    """
    request = state.request
    evaluator = Evaluator(
        state.judge,
        conditions_of=conditions_of(state),
        samples=samples,
        seed=request.seed,
        threads=request.threads,
    )
    state.start(f"measuring {REFERENCE}")
    reference = evaluator.score(state.draft([REFERENCE]), REFERENCE, state.advance)
    if state.main == DENOISER and DECODER not in state.components and evaluator.reference is not None:
        warn_of_clamped(evaluator.reference)
    own = _with_components(state, REFERENCE, reference, {}) | {"program": state.default_program}
    if REFERENCE not in state.quality:  # keep figures that the bundle already has
        half = request.budget.completed(Requirement(HALF_PSNR))
        own |= {"measured": measured_with(REFERENCE)}
        state.quality[REFERENCE] = own | {"precisions": measure_precisions(state, evaluator, REFERENCE, half, reference)}
    for name in request.derived:
        if name in state.failed:
            continue
        try:
            _evaluate_format(state, evaluator, name, reference)
        except BudgetError as error:
            state.failed[name] = str(error)
    _remove_failed(state)
    _evaluate_size(state)
    if request.derived and 0 < state.inputs.count < APART and not state.programs[state.default_program].rows:
        _add_note(
            state, f"quality was measured on the inputs that formats were calibrated on: of {APART} or more, some are held out"
        )
    detail = {
        name: figures | {"compression": state.reports.get(name) or state.details.get(name, {})}
        for name, figures in state.quality.items()
    }
    state.files["quality.json"] = json.dumps(detail, indent=1, allow_nan=False).encode()


def _remove_failed(state: CompileState) -> None:
    """Take the formats that missed the budget out of the request and the results.

    Raises BudgetError when none is left, or fp32 alone although a budget was requested, of which it says nothing.
    """
    if not state.failed:
        return
    passed = {name: format for name, format in state.request.formats.items() if name not in state.failed}
    if not passed or (state.request.budget.words and list(passed) == [REFERENCE]):
        raise BudgetError("; ".join(state.failed.values()))
    state.request = dataclasses.replace(state.request, formats=passed)
    state.manifest = state.manifest._replace(default_format=next(iter(passed)))
    for name in state.failed:
        state.quality.pop(name, None)
    for name, part in state.networks.items():
        formats = {format: files for format, files in part.formats.items() if format not in state.failed}
        state.components[name] = part._replace(formats=formats)


def _evaluate_size(state: CompileState) -> None:
    """Compare every format with fp32 at the largest other size too, or note in the manifest why it was not."""
    sizes, formats = state.manifest.sizes, state.request.derived
    if not sizes or not formats:
        return
    size = max(sizes[1:], key=math.prod)
    reason = None
    ratio = math.prod(size) / math.prod(sizes[0])  # squared below: attention may dominate
    if sample_budget(state, SIZE_SAMPLES, SIZE_MACS / (len(formats) + 1) / ratio**2, least=0) < SIZE_SAMPLES:
        reason = f"at {named(size)} an image takes this machine too long"
    elif state.inputs.kind == "arrays" and not state.programs[state.default_program].rows:
        reason = "the inputs that the formats were calibrated on have that size"
    if reason is not None:
        _add_note(state, f"quality was measured at {named(sizes[0])} alone: {reason}")
        return

    def sampled(name: str) -> Any:
        bundle, index = state.draft(list(dict.fromkeys([name, REFERENCE]))), np.arange(SIZE_SAMPLES)
        seed, threads = state.request.seed, state.request.threads
        return draw(bundle, name, conditions_of(state, size), index, seed=seed, threads=threads, size=size)

    reference = sampled(REFERENCE)
    for name in formats:
        figures = compare(sampled(name), reference) | {"n": SIZE_SAMPLES}
        state.quality[name]["sizes"] = {named(size): figures}


def _add_note(state: CompileState, note: str) -> None:
    state.manifest = state.manifest._replace(notes=tuple(dict.fromkeys([*state.manifest.notes, note])))


def _evaluate_format(state: CompileState, evaluator: Evaluator, name: str, reference: dict[str, Any]) -> None:
    """Evaluate one format and, while it misses the budget, convert it again: with further layers of the main component in float,
    or with another component in the format's companion, whichever has the largest error."""
    first = state.request.formats[name]
    own = Requirement(first.psnr, getattr(first, "centred_l2", 0.0)) if hasattr(first, "psnr") else None
    budget = state.request.budget.completed(own)

    errors = ComponentErrors(state, evaluator)

    def evaluate(candidate: Candidate) -> dict[str, Any]:
        if candidate != (first, frozenset()):
            convert_format(state, candidate.format, candidate.weight_only)
        state.start(f"measuring {name}")
        figures = evaluator.score(state.draft([name, REFERENCE]), name, state.advance)
        share = weight_share(state.reports.get(name, {}))
        figures |= {} if share is None else {"weight_share": share}
        alone = errors.measure(candidate.format)
        state.quality[name] = _with_components(state, name, figures, alone) | {"program": state.default_program}
        return figures

    def refuse(first: Trial[Candidate, dict[str, Any]], last: Trial[Candidate, dict[str, Any]]) -> BudgetError:
        missed, layers = budget.missed(last.result, reference), most_sensitive(state.reports.get(name, {}))
        return BudgetError(
            f"{name} {missed}{layers}: lower the budget, or use a finer format (finished stages are cached: the same command "
            "with another budget resumes from them)"
        )

    search(candidates(state, first), evaluate, lambda figures: budget.missed(figures, reference) is None, refuse)
    state.quality[name] = state.quality[name] | {
        "measured": measured_with(name),
        "precisions": measure_precisions(state, evaluator, name, budget, reference),
    }


def _with_components(state: CompileState, name: str, figures: dict[str, Any], errors: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a format with its "components" in place of their "seconds"."""
    stored = state.stored.setdefault(name, {part: {"format": name} for part in state.networks})
    for part, compared in errors.items():
        stored.setdefault(part, {}).update(compared)
    parts = {part: dict(entry) for part, entry in stored.items()}
    for part, seconds in figures.pop("seconds", {}).items():
        parts.setdefault(part, {})["seconds"] = seconds
    return figures | ({"components": parts} if parts else {})


def preview(state: CompileState) -> None:
    """Write a grid of samples in the default format, one row per class or prompt; none for latents without a decoder."""
    shape = at(state.manifest.output_shape, state.manifest.default_size)
    if shape[0] not in (1, 3):
        return
    state.start(PREVIEW)
    most = sample_budget(state, PREVIEW_COLUMNS * PREVIEW_ROWS, EVALUATION_MACS)
    columns = min(most, int(np.clip(PREVIEW_WIDTH // int(shape[-1]), 2, PREVIEW_COLUMNS)))
    rows = min(state.num_classes or len(state.prompts) or columns, PREVIEW_ROWS, 2 * columns, most // columns)
    which = np.repeat(np.arange(rows), columns)
    name = state.manifest.default_format
    images = draw(
        state.draft([name] if name == REFERENCE else [name, REFERENCE]),
        name,
        conditions_of(state),
        which,
        seed=state.request.seed,
        threads=state.request.threads,
        progress=state.advance,
    )
    file = state.folder / "preview.png"
    write_png(file, grid(to_uint8(images), columns=columns))
    state.files["preview.png"] = file
