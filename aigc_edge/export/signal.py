"""Signals as images of height 1, which all that follows handles."""

from __future__ import annotations

from torch import Tensor, nn


class SignalDecoder(nn.Module):
    """A decoder of signals [N, C, L] (audio, ECG) as one of images [N, C, 1, L]."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, sample: Tensor, class_labels: Tensor | None = None) -> Tensor:
        signals: Tensor = self.decoder(sample) if class_labels is None else self.decoder(sample, class_labels)
        return signals.unsqueeze(2)
