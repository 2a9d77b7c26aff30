"""The judge of a bundle: a classifier trained on the source's real images, if there are any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aigc_edge.bundle.manifest import JudgeEntry
from aigc_edge.compile.state import CompileState
from aigc_edge.compress.budget import Budget
from aigc_edge.errors import AigcEdgeError
from aigc_edge.sources.base import Source

JUDGE = "training the judge"  # name of a stage


def check_budget(budget: Budget, source: Source) -> None:
    """Raise AigcEdgeError when a Fréchet distance is requested but the source has no real images."""
    if budget.frechet is not None and not source.judged and not has_judge(source):
        raise AigcEdgeError(
            f"a Fréchet distance was requested, but {source.name} has no real images to compare with: pass --data, or use psnr=…"
        )


def has_judge(source: Source) -> bool:
    """Whether the source's folder already contains a judge."""
    return source.folder is not None and (source.folder / "judge").is_dir()


def make_judge(state: CompileState, source: Source) -> None:
    """Use the judge in the source's folder, or train one on the source's data and store it there if possible."""
    stored = None if source.folder is None else source.folder / "judge"
    if stored is not None and has_judge(source):
        use_judge(state, stored)
        return
    images = source.data()
    if images is None:
        return
    state.start(JUDGE)

    def train(folder: Path) -> dict[str, Any]:
        from aigc_edge.metrics.classifier import train_judge

        labels = images.labels if images.num_classes else None
        train_judge(images.scaled(), labels, folder / "judge", seed=state.request.seed, progress=state.advance)
        return {}

    if stored is not None:
        train(stored.parent)
        use_judge(state, stored)
    else:
        use_judge(state, state.stages.get_or_create("judge", [images.fingerprint, state.request.seed], train)[0] / "judge")


def use_judge(state: CompileState, folder: Path) -> None:
    """Add the judge in `folder` to the bundle."""
    state.judge = folder
    files = {path.stem: f"judge/{path.name}" for path in sorted(folder.iterdir()) if path.is_file()}
    state.files |= {name: folder / Path(name).name for name in files.values()}
    card = json.loads((folder / "judge.json").read_text(encoding="utf-8"))
    judge = JudgeEntry(files["classifier"], files["features"], card["accuracy"])
    state.manifest = state.manifest._replace(judge=judge)
