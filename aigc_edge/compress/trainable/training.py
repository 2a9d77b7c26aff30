"""The training loop: minibatches of evaluations, Adam with steps relative to each tensor's size, a cosine, a bound in time."""

from __future__ import annotations

import math
import time

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from aigc_edge.compress.trainable.finetune import DistillationSet, FineTuned, FineTuneSettings, Tell
from aigc_edge.compress.trainable.network import Trainable
from aigc_edge.errors import AigcEdgeError

LEAST_SIZE = 1e-2  # of a tensor's root mean square: a bias of zeros must be able to move
BAD = 20  # steps without a finite loss, one after the other, that end the training


def distil(
    model: onnx.ModelProto,
    given: DistillationSet,
    tuning: FineTuneSettings,
    latents: dict[str, npt.NDArray[np.float32]] | None,
    tell: Tell,
    threads: int,
) -> FineTuned:
    """See finetune.finetune."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _distil(model, given, tuning, latents, tell)
    finally:
        torch.set_num_threads(before)


def _distil(
    model: onnx.ModelProto,
    given: DistillationSet,
    tuning: FineTuneSettings,
    latents: dict[str, npt.NDArray[np.float32]] | None,
    tell: Tell,
) -> FineTuned:
    network = Trainable(model, latents)
    optimiser = torch.optim.Adam(_groups(network), betas=(0.9, 0.99))
    rates = [group["lr"] * tuning.rate for group in optimiser.param_groups]
    rng = np.random.default_rng(tuning.seed)
    started, losses, bad, step = time.monotonic(), list[float](), 0, 0
    for step in range(1, tuning.steps + 1):
        part = max((step - 1) / tuning.steps, (time.monotonic() - started) / tuning.seconds)
        if part >= 1:
            step -= 1
            break
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * part)) * min(1.0, step / 10)
        loss = _loss(network, given, rng.integers(0, given.size, min(tuning.batch, given.size)))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        losses.append(loss.item())
        bad = 0 if math.isfinite(losses[-1]) else bad + 1
        if bad == 0:
            optimiser.step()
        elif bad == BAD:
            raise AigcEdgeError(
                f"fine-tuning does not converge (no finite loss after {step} steps): take a smaller rate than {tuning.rate}"
            )
        tell(step, tuning.steps)
    tenth = max(1, len(losses) // 10)
    mean = lambda values: float(np.mean(values)) if values else math.nan  # noqa: E731
    return FineTuned(network.trained(), step, mean(losses[:tenth]), mean(losses[-tenth:]))


def _loss(network: Trainable, given: DistillationSet, chosen: npt.NDArray[np.int64]) -> torch.Tensor:
    made = network({name: torch.from_numpy(value[chosen]) for name, value in given.inputs.items()})[0]
    wanted = torch.from_numpy(given.teacher_outputs[chosen])
    errors = (made - wanted).square().flatten(1).mean(1)
    return (errors * torch.from_numpy(given.weights[chosen])).mean()


def _groups(network: Trainable) -> list[dict[str, object]]:
    """Parameters of about the same size (a power of two) together: Adam's steps are in proportion to it."""
    groups: dict[int, list[nn.Parameter]] = {}
    for parameter, size in network.sizes():
        groups.setdefault(round(math.log2(max(size, LEAST_SIZE))), []).append(parameter)
    return [{"params": parameters, "lr": 2.0**power} for power, parameters in sorted(groups.items())]
