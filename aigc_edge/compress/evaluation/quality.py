"""How good the final samples of a format have to be, compared with those of fp32 from the same noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

EQUAL = 1e-6  # relative differences within a channel that are rounding alone


def tolerance(psnr: float) -> float:
    """10^(1 − psnr/20): the largest error relative to what varies, and the largest loss of SSIM, that `psnr` dB stand for."""
    return float(10 ** (1 - psnr / 20))


@dataclass(frozen=True)
class Requirement:
    """At least `psnr` dB (0: any), and an error of at most `centred_l2` of what varies in the samples (0: follows from PSNR).

    PSNR alone accepts an error as large as the signal where the signal is small within its range, as a heartbeat or a dark image
    is. What follows from it is the error that it allows of a signal whose deviation is a tenth of the range.
    """

    psnr: float
    centred_l2: float = 0.0

    @property
    def most_centred_l2(self) -> float:
        """The largest error relative to what varies."""
        return self.centred_l2 or tolerance(self.psnr)

    @property
    def least_ssim(self) -> float:
        """The least SSIM of images; 0: any."""
        return max(0.0, 1 - tolerance(self.psnr))

    def __str__(self) -> str:
        return f"an error of at most {self.most_centred_l2:.2g} and {self.psnr:.1f} dB"


def centred(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """What varies in `values` [N, C, ...] or [N, D]: the mean of each sample's channel (of each sample) is subtracted.

    Values that are constant in every channel keep what varies between samples and channels.
    """
    x = np.asarray(values, np.float64)
    inner = x - x.mean(axis=tuple(range(2, x.ndim)) or tuple(range(1, x.ndim)), keepdims=True)
    return inner if np.abs(inner).max(initial=0) > EQUAL * np.abs(x).max(initial=0) else x - x.mean()
