"""`aigc-edge train`: train a model of a family, and the judge that scores its images, on real data."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import typing
from pathlib import Path
from typing import Any

from aigc_edge.commands import values
from aigc_edge.commands.parser import Parser, option
from aigc_edge.hardware import let_threads_sleep

ORDER = 10
HELP = "train a generator on real images"
DESCRIPTION = """\
Train a generator on real images. The same command resumes an interrupted run, and returns at once if the run is finished.

  aigc-edge train diffusion --data digits --out runs/digits
  aigc-edge train gan --data path/to/images --size 32 --out runs/mine      subfolders are classes

'aigc-edge train FAMILY --help' lists the settings of a family. The run folder can be opened in TensorBoard."""
OWN = ("size", "channels", "num_classes", "steps", "batch", "seed")  # set by the data or by the options below


def configure(parser: Parser) -> None:
    parser.late = add_families  # their settings need torch, whose import takes two seconds: only when used


def add_families(parser: Parser) -> None:
    """Add one sub-command per registered family, with its settings as options."""
    let_threads_sleep()  # before torch, which the settings of the families import
    from aigc_edge.models.base import FAMILIES

    families = parser.add_subparsers(dest="family", metavar="FAMILY", required=True, parser_class=Parser)
    for name in FAMILIES:
        family = FAMILIES[name]
        summary = (family.__doc__ or name).strip().splitlines()[0]
        sub = families.add_parser(name, help=summary, description=summary)
        sub.usage = f"{sub.prog} --data DATA --out FOLDER [options]"
        _common(sub, family.Training)
        for title, settings in (("training", family.Training), ("model", family.Model)):
            group = sub.add_argument_group(f"{title} settings")
            for field in dataclasses.fields(settings):
                if field.name not in OWN:
                    add_setting(group, field, typing.get_type_hints(settings)[field.name])


def _common(parser: Parser, training: type) -> None:
    default = {field.name: field.default for field in dataclasses.fields(training)}
    option(parser, "--data DATA", "'digits', 'photos' or a folder of images; its subfolders are classes", required=True)
    option(parser, "--out FOLDER", "the run folder to write, or to resume", required=True)
    option(parser, "--size PIXELS", "height and width (default: the data's own)", type=values.whole(4, 1024))
    option(parser, "--steps N", f"optimiser steps (default: {default['steps']})", type=values.count)
    option(parser, "--batch N", f"images per step (default: {default['batch']})", type=values.count)
    seeds = values.whole(0, 2**63 - 1)
    option(parser, "--seed S", "random seed (default: %(default)s)", type=seeds, default=0)
    option(parser, "--threads N", "CPU threads (default: torch's choice)", type=values.threads)
    option(parser, "--fresh", "start over, replacing the contents of the run folder", action="store_true")
    option(parser, "--skip-corrupt", "skip images that cannot be read (default: stop at the first)", action="store_true")
    option(parser, "--no-judge", "do not train the classifier that scores samples", action="store_true")


def add_setting(group: argparse._ArgumentGroup, field: dataclasses.Field[Any], hint: Any) -> None:
    """Add an option for one field of a settings dataclass, which checks the bounds when it is created."""
    name, default = "--" + field.name.replace("_", "-"), field.default
    shown = ",".join(map(str, default)) or "none" if isinstance(default, tuple) else default
    text = f"{field.metadata.get('help', '')} (default: {shown})".replace("%", "%%")
    if hint is bool:
        group.add_argument(name, action=argparse.BooleanOptionalAction, default=None, help=text)
        return
    choices = field.metadata.get("choices")
    if typing.get_origin(hint) is tuple:
        kind: Any = _numbers
    else:
        kind = {int: values.whole(-(2**63), 2**63), float: values.real(-1e308)}.get(hint, str)
    metavar = None if choices else {int: "N", float: "X", str: "NAME"}.get(hint, "N,N,…")
    group.add_argument(name, type=kind, default=None, choices=choices, metavar=metavar, help=text)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} was given, whole numbers separated by commas are allowed") from None


def run(arguments: argparse.Namespace) -> int:
    import torch

    from aigc_edge.models.base import FAMILIES
    from aigc_edge.train import train

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    family = FAMILIES[arguments.family]
    fields = [f.name for settings in (family.Model, family.Training) for f in dataclasses.fields(settings)]
    settings = {name: getattr(arguments, name) for name in fields if name not in OWN}
    out = train(
        arguments.family,
        arguments.data,
        arguments.out,
        size=arguments.size,
        steps=arguments.steps,
        batch=arguments.batch,
        seed=arguments.seed,
        resume=not arguments.fresh,
        skip_corrupt=arguments.skip_corrupt,
        progress=sys.stderr.isatty(),
        **settings,
    )
    if not arguments.no_judge:
        train_judge_once(out, arguments)
    print(f"{out} is trained: aigc-edge compile {out} -o {out.name}.aigc")
    return 0


def train_judge_once(out: Path, arguments: argparse.Namespace) -> None:
    """Train the judge on the same data, unless the run already has one."""
    from aigc_edge import data
    from aigc_edge.metrics.classifier import train_judge

    folder = out / "judge"
    if folder.exists() and not arguments.fresh:
        return
    real = data.load(arguments.data, arguments.size, skip_corrupt=arguments.skip_corrupt)
    labels = real.labels if real.num_classes else None

    def progress(what: str, done: int, total: int) -> None:
        if sys.stderr.isatty() and (done == total or done % 10 == 0):
            print(f"\r{what}: step {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    card = train_judge(real.scaled(), labels, folder, seed=arguments.seed, overwrite=True, progress=progress)
    print(f"the judge in {folder} has a held-out accuracy of {card['accuracy']:.4f}")
