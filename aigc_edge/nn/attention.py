"""Self-attention over the positions of a feature map."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from aigc_edge.nn.blocks import group_norm, zeroed


class Attention(nn.Module):
    """Residual multi-head self-attention with pre-normalisation (GroupNorm); projections are 1×1 convolutions.

    The output projection starts at zero, so that an untrained block is the identity.
    """

    def __init__(self, channels: int, head_channels: int = 32) -> None:
        super().__init__()
        if channels % head_channels:
            head_channels = channels
        self.heads = channels // head_channels
        self.head_channels = head_channels
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] → [N, C, H, W]."""
        channels, height, width = x.shape[1:]
        # -1 for the batch keeps the exported Reshapes constant.
        parts = self.qkv(self.norm(x)).reshape(-1, 3 * self.heads, self.head_channels, height * width)
        query, key, value = parts.transpose(2, 3).split(self.heads, dim=1)
        attended = F.scaled_dot_product_attention(query, key, value)
        return x + self.out(attended.transpose(2, 3).reshape(-1, channels, height, width))
