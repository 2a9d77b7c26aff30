"""The UNet that the diffusion family denoises with."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aigc_edge.nn.attention import Attention
from aigc_edge.nn.blocks import Downsample, Modulation, ResBlock, Upsample, group_norm, zeroed
from aigc_edge.nn.embeddings import ConditionEmbedding


class UNet(nn.Module):
    """F(sample [N, C, H, W], timestep [N] float32, class_labels [N] int64) → [N, C, H, W], float32.

    `widths[i]` channels and `blocks[i]` residual blocks at resolution H / (patch · 2^i) down and again up, one skip
    connection a level (concatenated); self-attention after each block of the levels named in `attention`. `patch` > 1 makes
    the first convolution downsample the image and a depth-to-space restore the resolution: the cheapest trade of fine detail
    for speed. With `num_classes` 0 there is no class_labels.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        widths: tuple[int, ...],
        blocks: tuple[int, ...],
        attention: tuple[int, ...] = (),
        patch: int = 1,
        embedding: int = 128,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.embedding = ConditionEmbedding(embedding, num_classes)
        self.stem = nn.Conv2d(channels, widths[0], patch + 2, stride=patch, padding=1)
        self.layers = nn.ModuleList()
        modulated: list[int] = []

        def add_blocks(level: int, first: int) -> None:
            for index in range(blocks[level]):
                self.layers.append(ResBlock(widths[level] if index else first, widths[level]))
                if level in attention:
                    self.layers.append(Attention(widths[level]))
            modulated.extend([widths[level]] * blocks[level])

        for level, width in enumerate(widths):
            if level:
                self.layers.append(Downsample(widths[level - 1], width))
            add_blocks(level, width)
        for level in reversed(range(len(widths) - 1)):
            self.layers.append(Upsample(widths[level + 1], widths[level]))
            add_blocks(level, 2 * widths[level])
        self.modulation = Modulation(embedding, modulated)
        self.norm = group_norm(widths[0])
        self.head = zeroed(nn.Conv2d(widths[0], channels * patch * patch, 3, padding=1))

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Tensor:
        modulation = iter(self.modulation(self.embedding(timestep, class_labels)))
        x = self.stem(sample)
        skips = []
        for layer in self.layers:
            if isinstance(layer, Downsample):
                skips.append(x)
            x = layer(x, *next(modulation)) if isinstance(layer, ResBlock) else layer(x)
            if isinstance(layer, Upsample):
                x = torch.cat([x, skips.pop()], dim=1)
        x = self.head(F.silu(self.norm(x)))
        return F.pixel_shuffle(x, self.patch) if self.patch > 1 else x
