"""Quality of every format on the same noise, through the runtime itself; one that misses the budget is converted again, finer."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import numpy as np

from aigc_edge.bundle.sizes import at, named
from aigc_edge.compile.compressing import EVALUATION_MACS, convert_format, sample_budget
from aigc_edge.compile.conditions import conditions_of
from aigc_edge.compile.evaluator import Evaluator, draw, most_sensitive, paired
from aigc_edge.compile.request import REFERENCE, with_psnr
from aigc_edge.compile.work import Work
from aigc_edge.compress.evaluation.search import Trial, search
from aigc_edge.errors import BudgetError
from aigc_edge.images import grid, to_uint8, write_png

if TYPE_CHECKING:
    from aigc_edge.compress.format import Format

SIZE_SAMPLES, SIZE_MACS = 2, 3e12  # images at the largest other size, and the multiply-adds that all formats may take for them
RETRIES, STEP = 3, 2.0  # how often a format is converted again, and how many dB more it then has to hold
PREVIEW_COLUMNS, PREVIEW_ROWS, PREVIEW_WIDTH = 8, 16, 1024  # at most; the width in pixels, but at least two columns
PREVIEW = "drawing the preview"  # name of a stage


def evaluate_formats(work: Work, samples: int) -> None:
    """Score fp32 and every derived format on `samples` images from the same noise, and hold the formats to the budget."""
    request = work.request
    evaluator = Evaluator(
        work.judge,
        conditions_of=conditions_of(work),
        samples=samples,
        seed=request.seed,
        threads=request.threads,
    )
    work.start(f"measuring {REFERENCE}")
    reference = evaluator.score(work.draft([REFERENCE]), REFERENCE, work.tell)
    work.quality.setdefault(REFERENCE, reference | {"program": work.default_program})  # figures that a bundle has already stay
    for name in request.derived:
        _evaluate_format(work, evaluator, name, reference)
    _evaluate_size(work)
    detail = {
        name: figures | {"compression": work.reports.get(name) or work.details.get(name, {})}
        for name, figures in work.quality.items()
    }
    work.files["quality.json"] = json.dumps(detail, indent=1, allow_nan=False).encode()


def _evaluate_size(work: Work) -> None:
    """Compare every format with fp32 at the largest other size too; a note in the manifest says when that costs too much."""
    sizes, formats = work.manifest.sizes, work.request.derived
    if not sizes or not formats:
        return
    size = max(sizes[1:], key=math.prod)
    more = math.prod(size) / math.prod(sizes[0])  # squared below: attention may dominate
    if sample_budget(work, SIZE_SAMPLES, SIZE_MACS / (len(formats) + 1) / more**2, least=0) < SIZE_SAMPLES:
        note = f"quality was measured at {named(sizes[0])} alone: at {named(size)} an image takes this machine too long"
        work.manifest = dataclasses.replace(work.manifest, notes=tuple(dict.fromkeys([*work.manifest.notes, note])))
        return

    def sampled(name: str) -> Any:
        bundle, index = work.draft(list(dict.fromkeys([name, REFERENCE]))), np.arange(SIZE_SAMPLES)
        seed, threads = work.request.seed, work.request.threads
        return draw(bundle, name, conditions_of(work), index, seed=seed, threads=threads, size=size)

    reference = sampled(REFERENCE)
    for name in formats:
        figures = paired(sampled(name), reference) | {"n": SIZE_SAMPLES}
        work.quality[name]["sizes"] = {named(size): figures}


def _evaluate_format(work: Work, evaluator: Evaluator, name: str, reference: dict[str, Any]) -> None:
    """Hold one format to the budget: converted again with a higher PSNR to hold, as long as it misses and more layers can fall
    back to float."""
    budget, first = work.request.budget, work.request.formats[name]

    def evaluate(format: Format) -> dict[str, Any]:
        if format is not first:
            convert_format(work, format)
        work.start(f"measuring {name}")
        figures = evaluator.score(work.draft([name, REFERENCE]), name, work.tell)
        work.quality[name] = figures | {"program": work.default_program}
        return figures

    def refuse(first: Trial[Format, dict[str, Any]], last: Trial[Format, dict[str, Any]]) -> BudgetError:
        missed, layers = budget.missed(last.result, reference), most_sensitive(work.reports.get(name, {}))
        return BudgetError(
            f"{name} {missed}{layers}: lower the budget, or use a finer format (finished stages are kept: the same command with "
            "another budget continues from them)"
        )

    search(_finer_formats(work, first), evaluate, lambda figures: budget.missed(figures, reference) is None, refuse)


def _finer_formats(work: Work, format: Format) -> Generator[Format, bool, None]:
    """`format`, and while the budget is missed the same format with a higher PSNR to hold, as often as RETRIES allows."""
    for _ in range(RETRIES + 1):
        if (yield format):
            return
        reports = work.reports.get(format.name, {}).values()
        reached = [r["psnr"] for r in reports if r.get("nodes") and r.get("psnr") is not None]
        if not reached or not hasattr(format, "psnr"):
            return
        format = with_psnr(format, max(format.psnr, min(reached)) + STEP)


def preview(work: Work) -> None:
    """Write a sheet of samples in the default format, one row per class or prompt; none for latents without a decoder."""
    shape = at(work.manifest.output_shape, work.manifest.default_size)
    if shape[0] not in (1, 3):
        return
    work.start(PREVIEW)
    most = sample_budget(work, PREVIEW_COLUMNS * PREVIEW_ROWS, EVALUATION_MACS)
    columns = min(most, int(np.clip(PREVIEW_WIDTH // int(shape[-1]), 2, PREVIEW_COLUMNS)))
    rows = min(work.num_classes or len(work.prompts) or columns, PREVIEW_ROWS, 2 * columns, most // columns)
    which = np.repeat(np.arange(rows), columns)
    name = work.manifest.default_format
    images = draw(
        work.draft([name] if name == REFERENCE else [name, REFERENCE]),
        name,
        conditions_of(work),
        which,
        seed=work.request.seed,
        threads=work.request.threads,
        progress=work.tell,
    )
    file = work.folder / "preview.png"
    write_png(file, grid(to_uint8(images), columns=columns))
    work.files["preview.png"] = file
