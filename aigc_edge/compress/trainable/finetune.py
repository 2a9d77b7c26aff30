"""Fine-tuning by distillation along the trajectory: a changed network learns what the float32 network says; no data is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from aigc_edge.compress.calibration.compute_budget import dry_run, gains
from aigc_edge.compress.calibration.trajectory import Calibration, Record
from aigc_edge.compress.graphs import graph

TEACH = 4e12  # multiply-adds that the float32 network may spend on its answers: a few minutes of one core
MEMORY = 512 * 2**20  # bytes that inputs and answers may take
SAMPLES = 256  # trajectories that are enough for any network
STEP = 5e10  # multiply-adds of one pass of a minibatch: larger networks take fewer evaluations at a time
ONE_SHOT = 4096  # and latents, of a network that takes one evaluation

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class FineTuneSettings:
    """How long and how fast: at most `steps` steps of Adam and `seconds`, at most `batch` evaluations a step.

    `rate` is the first step's size relative to each tensor's root mean square; it falls to zero along a cosine.
    """

    steps: int = 1000
    seconds: float = 600.0
    rate: float = 3e-3
    batch: int = 16
    seed: int = 0


@dataclass
class FineTuned:
    """The network after fine-tuning, the steps that were taken and the mean loss of the first and of the last tenth of them."""

    model: onnx.ModelProto
    steps: int
    first_loss: float
    last_loss: float


@dataclass
class DistillationSet:
    """Inputs of single evaluations along the trajectory, the float32 network's answers, and what each counts.

    Every array has the evaluations of all samples and rows along its first axis.
    """

    inputs: dict[str, npt.NDArray[Any]]
    teacher_outputs: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = len(self.teacher_outputs)


def distillation_set(
    original: onnx.ModelProto, calibration: Calibration, *, samples: int = 0, seed: int = 0, threads: int = 1
) -> DistillationSet:
    """Trajectories of the float32 network from noise that `calibration` does not hold, as many as TEACH and MEMORY allow.

    Conditions are those of the calibration, in turn. An evaluation counts by what an error in it makes of the final sample, half,
    and by how large its answer is, the other half: errors travel on through the network, too.
    """
    rows = dry_run(calibration)
    each = sum(len(next(iter(record.inputs.values()))) for record in rows)
    one = sum(value[:1].nbytes for value in rows[0].inputs.values()) * each * 2
    work = max(1, sum(layer.macs for layer in graph.layers(original))) * each
    most = samples or (SAMPLES if calibration.program.rows else ONE_SHOT)
    number = max(2, min(most, int(TEACH / work), int(MEMORY / one)))
    network = graph.Network(original, threads=threads)
    records: list[Record] = []
    teacher_outputs: list[npt.NDArray[Any]] = []
    for first in range(0, number, 16):

        def watched(inputs: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
            made = network(inputs)
            teacher_outputs.append(made[0])
            return made

        with_new_noise(calibration, min(16, number - first), seed + 1 + first).run(watched, records)
    value = _values(calibration, records, teacher_outputs)
    return DistillationSet(
        {name: np.concatenate([record.inputs[name] for record in records]) for name in records[0].inputs},
        np.concatenate(teacher_outputs).astype(np.float32),
        np.concatenate([np.full(len(made), worth, np.float32) for made, worth in zip(teacher_outputs, value, strict=True)]),
    )


def with_new_noise(calibration: Calibration, n: int, seed: int) -> Calibration:
    """`n` samples of the same program with other noise; classes and conditions are taken in turn from a random first one."""
    rng = np.random.default_rng([seed, 0x7EAC4])
    latents = rng.standard_normal((n, *calibration.latents.shape[1:]), dtype=np.float32)
    held = len(calibration.latents)
    turn = (np.arange(n) + int(rng.integers(held))) % held
    classes = calibration.classes
    if classes is not None:
        known = int(calibration.null_class or int(classes.max()) + 1)
        classes = rng.integers(0, known, n).astype(np.int64)
    own, other = (
        None if given is None else {name: np.asarray(value)[turn] for name, value in given.items()}
        for given in (calibration.conditions, calibration.negative)
    )
    seeds = rng.integers(1 << 33, 1 << 62, n).astype(np.uint64)
    return replace(calibration, latents=latents, classes=classes, seeds=seeds, conditions=own, negative=other)


def _values(calibration: Calibration, records: list[Record], teacher_outputs: list[npt.NDArray[Any]]) -> list[float]:
    """What an evaluation counts, by record: a factor of its mean squared error."""
    rows = sorted({record.row for record in records})
    sizes = {
        row: float(
            np.mean(
                [np.mean(np.square(a, dtype=np.float64)) for r, a in zip(records, teacher_outputs, strict=True) if r.row == row]
            )
        )
        for row in rows
    }
    relative = {row: 1 / max(size, 1e-12) for row, size in sizes.items()}
    reach = dict(zip(rows, gains(calibration, range(len(rows))), strict=True)) if calibration.program.rows else {}
    total = sum(reach.values())
    mean = sum(relative.values()) / len(rows)
    if not total > 0:
        return [relative[record.row] / mean for record in records]
    return [0.5 * relative[record.row] / mean + 0.5 * reach[record.row] * len(rows) / total for record in records]


def finetune(
    model: onnx.ModelProto,
    given: DistillationSet,
    tuning: FineTuneSettings,
    *,
    latents: dict[str, npt.NDArray[np.float32]] | None = None,
    tell: Tell | None = None,
    threads: int = 1,
) -> FineTuned:
    """`model` with its float constants, and its weights stored in few bits, moved towards the answers of `given`.

    `latents`: see trainable.network.Trainable. Nothing is written; an interruption loses what was learned. Raises AigcEdgeError
    when torch is missing, an operator of the model is not known, or its loss is not finite.
    """
    macs = max(1, sum(layer.macs for layer in graph.layers(model)))
    tuning = replace(tuning, batch=max(2, min(tuning.batch, int(STEP / macs))))
    from aigc_edge.compress.trainable.training import distil  # torch: seconds to import, and needed for nothing else here

    return distil(model, given, tuning, latents, tell or (lambda done, total: None), threads)
