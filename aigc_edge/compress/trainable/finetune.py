"""Fine-tuning by distillation: minibatches of evaluations, Adam with steps relative to each tensor's size, a cosine schedule.

A changed network is trained towards the float32 network's outputs along the trajectory; no training data is needed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from aigc_edge.compress.graphs import graph
from aigc_edge.compress.trainable.distillation import DistillationSet
from aigc_edge.compress.trainable.network import Trainable
from aigc_edge.errors import BudgetError

STEP_MACS = 5e10  # multiply-adds of one pass of a minibatch: larger networks take fewer evaluations at a time
LEAST_SIZE = 1e-2  # of a tensor's root mean square: a bias of zeros must be able to move
PATIENCE = 20  # consecutive steps without a finite loss that end the training

Masters = dict[str, npt.NDArray[np.float32]]
Progress = Callable[[int, int], None]  # steps done, steps in all


@dataclass(frozen=True)
class FineTuneSettings:
    """At most `steps` steps of Adam and `seconds` of training, with at most `batch` evaluations per step.

    `rate` is the first step's size relative to each tensor's root mean square; it falls to zero along a cosine.
    """

    steps: int = 1000
    seconds: float = 600.0
    rate: float = 3e-3
    batch: int = 16
    seed: int = 0


@dataclass
class FineTuned:
    """The network after fine-tuning, the number of steps, and the mean loss of the first and of the last tenth of them."""

    model: onnx.ModelProto
    steps: int
    first_loss: float
    last_loss: float


def finetune(
    model: onnx.ModelProto,
    data: DistillationSet,
    settings: FineTuneSettings,
    *,
    master_weights: Masters | None = None,
    progress: Progress | None = None,
    threads: int = 1,
) -> FineTuned:
    """Train the float constants of `model`, and its weights stored as integer codes, towards the teacher's outputs.

    `master_weights`: see trainable.network.Trainable. Nothing is written; an interruption loses what was learned. Raises
    AigcEdgeError when an operator of the model is not known, or the loss is not finite.
    """
    macs = max(1, sum(layer.macs for layer in graph.layers(model)))
    settings = replace(settings, batch=max(2, min(settings.batch, int(STEP_MACS / macs))))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _train(Trainable(model, master_weights), data, settings, progress or (lambda done, total: None))
    finally:
        torch.set_num_threads(before)


def _train(network: Trainable, data: DistillationSet, settings: FineTuneSettings, progress: Progress) -> FineTuned:
    optimiser = torch.optim.Adam(_groups(network), betas=(0.9, 0.99))
    rates = [group["lr"] * settings.rate for group in optimiser.param_groups]
    rng = np.random.default_rng(settings.seed)
    started, losses, failed, step = time.monotonic(), list[float](), 0, 0
    for step in range(1, settings.steps + 1):
        part = max((step - 1) / settings.steps, (time.monotonic() - started) / settings.seconds)
        if part >= 1:
            step -= 1
            break
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * part)) * min(1.0, step / 10)
        loss = _loss(network, data, rng.integers(0, data.size, min(settings.batch, data.size)))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        losses.append(loss.item())
        failed = 0 if math.isfinite(losses[-1]) else failed + 1
        if failed == 0:
            optimiser.step()
        elif failed == PATIENCE:
            raise BudgetError(
                f"fine-tuning does not converge (no finite loss after {step} steps): use a smaller rate than {settings.rate}"
            )
        progress(step, settings.steps)
    tenth = max(1, len(losses) // 10)
    mean = lambda values: float(np.mean(values)) if values else math.nan  # noqa: E731
    return FineTuned(network.trained(), step, mean(losses[:tenth]), mean(losses[-tenth:]))


def _loss(network: Trainable, data: DistillationSet, chosen: npt.NDArray[np.int64]) -> torch.Tensor:
    outputs = network({name: torch.from_numpy(value[chosen]) for name, value in data.inputs.items()})[0]
    teacher = torch.from_numpy(data.teacher_outputs[chosen])
    errors = (outputs - teacher).square().flatten(1).mean(1)
    return (errors * torch.from_numpy(data.weights[chosen])).mean()


def _groups(network: Trainable) -> list[dict[str, object]]:
    """Parameters of about the same size (a power of two) together: Adam's steps are in proportion to it."""
    groups: dict[int, list[nn.Parameter]] = {}
    for parameter, size in network.sizes():
        groups.setdefault(round(math.log2(max(size, LEAST_SIZE))), []).append(parameter)
    return [{"params": parameters, "lr": 2.0**power} for power, parameters in sorted(groups.items())]
