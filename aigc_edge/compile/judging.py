"""The judge of a bundle: a classifier trained on the source's real images, where there are any."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from aigc_edge.bundle.manifest import JudgeEntry
from aigc_edge.compile.work import Work
from aigc_edge.compress.budget import Budget
from aigc_edge.errors import AigcEdgeError
from aigc_edge.sources.base import Source

JUDGE = "training the judge"  # name of a stage


def check_budget(budget: Budget, source: Source) -> None:
    """Raise AigcEdgeError when a Fréchet distance is requested but the source has no real images."""
    if budget.frechet is not None and not source.judged and not has_judge(source):
        raise AigcEdgeError(
            f"a Fréchet distance was requested, but {source.name} has no real images to compare with: give --data, or use psnr=…"
        )


def has_judge(source: Source) -> bool:
    """Whether the source's folder holds a judge already."""
    return source.folder is not None and (source.folder / "judge").is_dir()


def make_judge(work: Work, source: Source) -> None:
    """Use the judge in the source's folder; train one on the source's data when there is none, and store it there if possible."""
    kept = None if source.folder is None else source.folder / "judge"
    if kept is not None and has_judge(source):
        use_judge(work, kept)
        return
    images = source.data()
    if images is None:
        return
    work.start(JUDGE)

    def train(folder: Path) -> dict[str, Any]:
        from aigc_edge.metrics.classifier import train_judge

        labels = images.labels if images.num_classes else None
        train_judge(images.scaled(), labels, folder / "judge", seed=work.request.seed, progress=work.tell)
        return {}

    if kept is not None:
        train(kept.parent)
        use_judge(work, kept)
    else:
        use_judge(work, work.steps.once("judge", [images.fingerprint, work.request.seed], train)[0] / "judge")


def use_judge(work: Work, folder: Path) -> None:
    """Put the judge in `folder` into the bundle."""
    work.judge = folder
    files = {path.stem: f"judge/{path.name}" for path in sorted(folder.iterdir()) if path.is_file()}
    work.files |= {name: folder / Path(name).name for name in files.values()}
    card = json.loads((folder / "judge.json").read_text(encoding="utf-8"))
    judge = JudgeEntry(files["classifier"], files["features"], card["accuracy"])
    work.manifest = replace(work.manifest, judge=judge)
