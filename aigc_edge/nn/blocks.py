"""Convolutional blocks of the UNet."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def group_norm(channels: int, *, affine: bool = True) -> nn.GroupNorm:
    """GroupNorm with groups of at least 4 channels and at most 32 groups, as many as divide `channels`."""
    groups = max(g for g in range(1, min(32, max(1, channels // 4)) + 1) if channels % g == 0)
    return nn.GroupNorm(groups, channels, eps=1e-5, affine=affine)


def zeroed(module: nn.Conv2d) -> nn.Conv2d:
    """Set weight and bias to zero, so that a residual branch starts as the identity; returns the module."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


class ResBlock(nn.Module):
    """Residual block: GroupNorm, SiLU, 3×3 convolution, twice; the second norm's scale and shift come from the condition.

    The structure is that of Dhariwal and Nichol 2021 (adaptive group normalisation).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels, affine=False)
        self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """x [N, in, H, W], scale and shift [N, out, 1, 1] (scale is about 1, not about 0) → [N, out, H, W]."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h) * scale + shift))
        return self.skip(x) + h


class Downsample(nn.Module):
    """Halve height and width with a strided 3×3 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Double height and width by repetition, then a 3×3 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Modulation(nn.Module):
    """One matrix product that computes scale and shift for every block of a network.

    One product for all blocks instead of one in each: at batch 1 a small product costs its launch, not its arithmetic. The bias
    starts at 1 for scales and 0 for shifts, the weight at 0: an untrained network ignores its condition.
    """

    def __init__(self, channels: int, widths: list[int]) -> None:
        super().__init__()
        self.sizes = [width for width in widths for _ in range(2)]
        self.linear = nn.Linear(channels, sum(self.sizes))
        nn.init.zeros_(self.linear.weight)
        with torch.no_grad():
            parts = [torch.ones(size) if index % 2 == 0 else torch.zeros(size) for index, size in enumerate(self.sizes)]
            self.linear.bias.copy_(torch.cat(parts))

    def forward(self, embedding: Tensor) -> list[tuple[Tensor, Tensor]]:
        """embedding [N, channels] → for each block (scale, shift), both [N, width, 1, 1]."""
        parts = self.linear(embedding)[:, :, None, None].split(self.sizes, dim=1)
        return list(zip(parts[::2], parts[1::2], strict=True))
