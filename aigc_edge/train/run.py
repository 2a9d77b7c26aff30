"""`train`: trains a model on data and writes a run folder."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from aigc_edge import config
from aigc_edge.data import load
from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import write_json
from aigc_edge.images import grid, write_png
from aigc_edge.models.base import FAMILIES, RUN_VERSION, Family, read_config
from aigc_edge.train import checkpoint
from aigc_edge.train.interrupt import deferred_interrupt
from aigc_edge.train.preview import COLUMNS, preview
from aigc_edge.train.trainer import Trainer

# Settings that may change when training is resumed.
_FREE = ("steps", "log_every", "check_every", "device")
_WRITTEN = ("config.json", "checkpoint.*", "model.safetensors", "judge", "samples", "events.out.tfevents.*")


def train(
    family: str,
    data: str,
    out: str | Path,
    *,
    size: int | None = None,
    steps: int | None = None,
    batch: int | None = None,
    seed: int = 0,
    resume: bool = True,
    progress: bool = True,
    skip_corrupt: bool = False,
    **settings: Any,
) -> Path:
    """Train a model of `family` on `data` ("digits", "photos" or a folder of images) and write the run folder `out`.

    Returns `out`. `settings` are fields of the family's `Model` and `Training` dataclasses; None stands for the default. With
    `resume` an existing run in `out` continues from its checkpoint, on the CPU with bit-identical results; a finished run is left
    unchanged. Ctrl-C writes a checkpoint and then raises KeyboardInterrupt. Raises AigcEdgeError (DataError for the
    data) for invalid input.
    """
    cls, out = FAMILIES[family], Path(out)
    _refuse_foreign(out)
    values = {"steps": steps, "batch": batch, "seed": seed} | settings
    model_values, train_values = _split_settings(cls, {key: value for key, value in values.items() if value is not None})
    options = config.from_dict(cls.Training, train_values, f"{family} training settings")
    images = load(data, size, skip_corrupt=skip_corrupt, watch=_reading if progress else iter)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = cls.from_config(cls.for_data(images.images, images.num_classes) | model_values)
    run_config = {
        "version": RUN_VERSION,
        "family": family,
        "model": network.model_config(),
        "data": images.describe(),
        "train": config.to_dict(options),
    }
    trainer = Trainer(network, options, *images.split(options.validation, options.seed))
    _prepare(out, run_config, resume)
    checkpoint.load(out, trainer)
    if trainer.step >= options.steps and (out / checkpoint.MODEL).exists():
        return out
    write_json(out / "config.json", run_config)
    _loop(trainer, out, progress)
    return out


def _reading(files: list[Path]) -> Iterable[Path]:
    return tqdm(files, desc="reading", unit="img", delay=1, dynamic_ncols=True)


def _split_settings(cls: type[Family], values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split settings into those of the model and those of the training."""
    model, training = config.names(cls.Model), config.names(cls.Training)
    # Settings determined by the data.
    model = [name for name in model if name not in ("size", "channels", "num_classes")]
    unknown = sorted(set(values) - set(model) - set(training))
    if unknown:
        raise AigcEdgeError(f"unknown {cls.name} settings {', '.join(unknown)}: choose from {', '.join([*training, *model])}")
    return {k: v for k, v in values.items() if k in model}, {k: v for k, v in values.items() if k in training}


def _refuse_foreign(out: Path) -> None:
    """Raise AigcEdgeError unless `out` is new, empty, or contains a run."""
    if out.exists() and not out.is_dir():
        raise AigcEdgeError(f"{out} is a file: give a folder for the run")
    if out.exists() and any(out.iterdir()) and not (out / "config.json").exists():
        raise AigcEdgeError(f"{out} contains other files and no training run: give an empty or new folder")


def _prepare(out: Path, run_config: dict[str, Any], resume: bool) -> None:
    """Check that a run in `out` can be resumed; without `resume`, remove it."""
    if not (out / "config.json").exists():
        return
    if not resume:
        for path in [file for pattern in _WRITTEN for file in out.glob(pattern)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return
    previous = read_config(out)
    for part in ("family", "model", "data", "train"):
        old, new = previous.get(part), run_config[part]
        if isinstance(old, dict) and isinstance(new, dict):
            free = _FREE if part == "train" else ()
            differ = [n for n in [*new, *old] if old.get(n) != new.get(n) and n not in free]
            if not differ:
                continue
            part, old, new = f"{part}.{differ[0]}", old.get(differ[0]), new.get(differ[0])
        if old != new:
            message = f"{out} was trained with {part} = {old!r}, but {new!r} was requested"
            raise AigcEdgeError(f"{message}: give another folder, or start from scratch without resuming")


def _loop(trainer: Trainer, out: Path, progress: bool) -> None:
    from torch.utils.tensorboard import SummaryWriter

    s = trainer.settings
    writer = SummaryWriter(str(out), purge_step=trainer.step or None)
    bar = tqdm(
        total=s.steps * s.batch,
        initial=trainer.step * s.batch,
        unit="img",
        unit_scale=True,
        disable=not progress,
        mininterval=0.5 if sys.stderr.isatty() else 15,  # few lines in log files
        dynamic_ncols=True,
    )
    try:
        with bar, deferred_interrupt() as interrupted:
            while trainer.step < s.steps:
                values = trainer.advance()
                bar.update(s.batch)
                if trainer.step % s.log_every == 0 or trainer.step == s.steps:
                    for name, value in values.items():
                        writer.add_scalar(f"loss/{name}", value, trainer.step)
                    writer.add_scalar("learning_rate", trainer.learning_rate(trainer.step - 1), trainer.step)
                    bar.set_postfix({name: f"{value:.4f}" for name, value in values.items()}, refresh=False)
                if trainer.step % s.check_every == 0 and trainer.step < s.steps:
                    _check(trainer, out, writer)
                if interrupted():
                    checkpoint.save(out, trainer)
                    raise KeyboardInterrupt
            _check(trainer, out, writer)
            if interrupted():
                raise KeyboardInterrupt
    finally:
        writer.close()


def _check(trainer: Trainer, out: Path, writer: Any) -> None:
    checkpoint.save(out, trainer)
    loss = trainer.validation_loss()
    writer.add_scalar("loss/validation", loss, trainer.step)
    sheet = grid(preview(trainer.ema.family, seed=trainer.seed), columns=COLUMNS)
    write_png(out / "samples" / f"step_{trainer.step:06d}.png", sheet)
    writer.add_image("samples", sheet, trainer.step, dataformats="HWC")
