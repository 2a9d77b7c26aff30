"""Sample grids for monitoring training."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from aigc_edge.diffusion import build, reference
from aigc_edge.images import to_uint8
from aigc_edge.models.base import Family

COLUMNS = 8
ROWS = 8  # without classes; otherwise one row per class (at most MOST)
MOST = 20
SOLVER, STEPS, GUIDANCE = "dpmpp_2m", 12, 1.5


@torch.no_grad()
def preview(family: Family, *, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Images uint8 [rows · COLUMNS, H, W, C] that `family` generates from the latents of `seed`, one row per class."""
    rows = min(family.num_classes, MOST) or ROWS
    latents = np.random.default_rng(seed).standard_normal((rows * COLUMNS, *family.sample_shape), np.float32)
    classes = np.repeat(np.arange(rows), COLUMNS) if family.num_classes else None
    (component,) = family.components()
    module = component.module
    device = next(module.parameters()).device

    def network(*inputs: np.ndarray | None) -> np.ndarray:
        tensors = [torch.from_numpy(value).to(device) for value in inputs if value is not None]
        return module(*tensors).float().cpu().numpy()

    if family.schedule is None:
        return to_uint8(network(latents, classes))
    guidance = GUIDANCE if family.num_classes else 1.0
    program = build(family.schedule, SOLVER, STEPS, guidance_scale=guidance)
    images = reference.run(program, network, latents, classes=classes, null_class=family.num_classes, dtype=np.float32)
    return to_uint8(images)
