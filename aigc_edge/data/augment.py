"""Random flips and small affine changes of a batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def augment(
    images: Tensor, generator: torch.Generator, *, flip: bool = False, shift: float = 0.0, rotate: float = 0.0, zoom: float = 0.0
) -> Tensor:
    """Randomly augment each image of a batch float32 [N, C, H, W]; the shape is unchanged.

    `flip` mirrors half of them; `shift` moves by up to that share of the size, `rotate` turns by up to that many degrees,
    `zoom` scales by up to 1 ± zoom, all uniform. Pixels from outside repeat the border; interpolation is bicubic, clamped
    to the range of the batch. The randomness is drawn on the CPU, so that every device sees the same.
    """
    count = len(images)
    if flip:
        mirrored = (torch.rand(count, generator=generator) < 0.5).to(images.device)
        images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
    if not (shift or rotate or zoom):
        return images
    dx, dy, turn, scale = (2 * torch.rand(4, count, generator=generator) - 1).unbind(0)
    angle, scale = torch.deg2rad(turn * rotate), 1 / (1 + scale * zoom)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    # affine_grid measures in half sizes: a shift by the share s of the size is 2 s.
    theta = torch.stack([torch.stack([cos, -sin, 2 * shift * dx], 1), torch.stack([sin, cos, 2 * shift * dy], 1)], 1)
    grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return moved.clamp(images.min(), images.max())
