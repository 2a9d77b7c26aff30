"""Quality of every format on the same noise, through the runtime itself; a format that misses its budget is made again, finer."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np

from aigc_edge.bundle.sizes import at, named
from aigc_edge.compile.compressing import PROOF_MACS, affordable, convert_format
from aigc_edge.compile.conditions import given
from aigc_edge.compile.evaluate import Prover, blame, draw, paired
from aigc_edge.compile.request import REFERENCE, with_psnr
from aigc_edge.compile.work import Work
from aigc_edge.errors import BudgetError
from aigc_edge.images import grid, to_uint8, write_png

SIZE_SAMPLES, SIZE_MACS = 2, 3e12  # of the largest other size: as many images, if all formats cost no more
TRIES, STEP = 3, 2.0  # how often a format is made again, and how many dB more its mixture must then hold
PREVIEW_COLUMNS, PREVIEW_ROWS, PREVIEW_WIDTH = 8, 16, 1024  # pixels, but at least two columns
PREVIEW = "drawing the preview"  # a stage


def prove(work: Work, samples: int) -> None:
    """Score fp32 and every derived format on `samples` images from the same noise, and hold them to the budget."""
    request = work.request
    prover = Prover(
        work.judge,
        given=given(work),
        samples=samples,
        seed=request.seed,
        threads=request.threads,
    )
    work.start(f"measuring {REFERENCE}")
    reference = prover.score(work.draft([REFERENCE]), REFERENCE, work.tell)
    work.quality.setdefault(REFERENCE, reference | {"program": work.default_program})  # a bundle's own figures stay
    for name in request.derived:
        _prove_format(work, prover, name, reference)
    _prove_size(work)
    detail = {
        name: figures | {"compression": work.reports.get(name) or work.details.get(name, {})}
        for name, figures in work.quality.items()
    }
    work.files["quality.json"] = json.dumps(detail, indent=1, allow_nan=False).encode()


def _prove_size(work: Work) -> None:
    """The largest other size, drawn once in every format, beside fp32; the bundle says so where that costs too much."""
    sizes, formats = work.manifest.sizes, work.request.derived
    if not sizes or not formats:
        return
    size = max(sizes[1:], key=math.prod)
    more = math.prod(size) / math.prod(sizes[0])  # squared: attention may be all that there is
    if affordable(work, SIZE_SAMPLES, SIZE_MACS / (len(formats) + 1) / more**2, least=0) < SIZE_SAMPLES:
        note = f"quality was measured at {named(sizes[0])} alone: at {named(size)} an image takes this machine too long"
        work.manifest = dataclasses.replace(work.manifest, notes=tuple(dict.fromkeys([*work.manifest.notes, note])))
        return

    def drawn(name: str) -> Any:
        bundle, index = work.draft(list(dict.fromkeys([name, REFERENCE]))), np.arange(SIZE_SAMPLES)
        seed, threads = work.request.seed, work.request.threads
        return draw(bundle, name, given(work), index, seed=seed, threads=threads, size=size)

    reference = drawn(REFERENCE)
    for name in formats:
        figures = paired(drawn(name), reference) | {"n": SIZE_SAMPLES}
        work.quality[name]["sizes"] = {named(size): figures}


def _prove_format(work: Work, prover: Prover, name: str, reference: dict[str, Any]) -> None:
    format, missed = work.request.formats[name], None
    for attempt in range(TRIES + 1):
        work.start(f"measuring {name}")
        figures = prover.score(work.draft([name, REFERENCE]), name, work.tell)
        work.quality[name] = figures | {"program": work.default_program}
        missed = work.request.budget.missed(figures, reference)
        finer = _finer(work, format)
        if missed is None or finer is None or attempt == TRIES:
            break
        format = finer
        convert_format(work, format)
    if missed is not None:
        raise BudgetError(
            f"{name} {missed}{blame(work.reports.get(name, {}))}: ask for less, or take a finer format "
            "(what was finished is kept: the same command with another budget goes on from it)"
        )


def _finer(work: Work, format: Any) -> Any:
    """The format with a mixture that holds more, or None where it has no such choice or nothing is left to put back."""
    reached = [r["psnr"] for r in work.reports.get(format.name, {}).values() if r.get("nodes") and r.get("psnr") is not None]
    if not reached or not any(field.name == "psnr" for field in dataclasses.fields(format)):
        return None
    return with_psnr(format, max(format.psnr, min(reached)) + STEP)


def preview(work: Work) -> None:
    """A sheet of samples of the default format, one row a class or prompt; latents without a decoder are no picture."""
    shape = at(work.manifest.output_shape, work.manifest.default_size)
    if shape[0] not in (1, 3):
        return
    work.start(PREVIEW)
    affords = affordable(work, PREVIEW_COLUMNS * PREVIEW_ROWS, PROOF_MACS)
    columns = min(affords, int(np.clip(PREVIEW_WIDTH // int(shape[-1]), 2, PREVIEW_COLUMNS)))
    rows = min(work.num_classes or len(work.prompts) or columns, PREVIEW_ROWS, 2 * columns, affords // columns)
    which = np.repeat(np.arange(rows), columns)
    name = work.manifest.default_format
    images = draw(
        work.draft([name] if name == REFERENCE else [name, REFERENCE]),
        name,
        given(work),
        which,
        seed=work.request.seed,
        threads=work.request.threads,
        tell=work.tell,
    )
    file = work.folder / "preview.png"
    write_png(file, grid(to_uint8(images), columns=columns))
    work.files["preview.png"] = file
