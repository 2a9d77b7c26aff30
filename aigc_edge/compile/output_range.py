"""Whether the declared output range fits what the fp32 networks return: a range that does not fit hides every error.

Samples are clamped to the range before formats are compared. Where most values lie outside it, fp32 and every format become the
same constant, and every format would pass.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

import aigc_edge
from aigc_edge.bundle.component import DECODER, DENOISER
from aigc_edge.compile.calibrating import LATENT_MACS, decoded_samples, sample_budget
from aigc_edge.compile.conditions import conditions_of
from aigc_edge.compile.request import REFERENCE
from aigc_edge.compile.state import CompileState
from aigc_edge.engines.base import EXACT
from aigc_edge.errors import AigcEdgeError, CalibrationWarning

SAMPLES = 8  # of a network of one evaluation
MARGIN = 0.05  # of the width of the range: clamping what is less far outside hides little
MANY = 0.05  # share of values outside from which there is a warning
MOST, MOST_DECODED = 0.5, 0.9  # shares that are refused, of a network of one evaluation and of a decoder behind a denoiser
CLAMPED = 0.95  # share of a denoiser's samples at the ends of the range from which there is a warning: images may be nearly black


def check_output_range(state: CompileState) -> None:
    """Compare fp32 samples of a network of one evaluation, or of a decoder, with the output range.

    Raises AigcEdgeError where the errors of the requested formats would be hidden; without formats to convert it warns instead.
    A denoiser without a decoder is not checked: its samples are the states of its own program.
    """
    formats = state.request.derived
    if DENOISER in state.components:
        if DECODER in state.components and formats:
            check_range(decoded_samples(state)[1], state.manifest.output_range, most=MOST_DECODED)
        return
    if state.programs[state.default_program].rows:
        return
    count = sample_budget(state, SAMPLES, LATENT_MACS, least=2)
    with aigc_edge.open(state.draft([REFERENCE]), threads=state.request.threads, verify="none", precision=EXACT) as pipeline:
        index, seed = np.arange(count), state.request.seed
        images = [pipeline.sample(1, seed=seed + i, output="float32", **conditions_of(state)(index[i : i + 1])) for i in index]
    check_range(np.concatenate(images), state.manifest.output_range, most=MOST if formats else None)


def check_range(samples: npt.NDArray[np.float32], output_range: tuple[float, float], *, most: float | None) -> None:
    """Warn where more than MANY of the values of `samples` lie outside `output_range`.

    Raises AigcEdgeError where more than `most` do, or clamping makes samples that vary constant; None: it warns instead.
    """
    low, high = map(float, output_range)
    margin = MARGIN * (high - low)
    if not np.isfinite(samples).all():  # has an error of its own
        return
    share = float(np.mean((samples < low - margin) | (samples > high + margin)))
    constant = float(np.ptp(samples)) > 0 and float(np.ptp(np.clip(samples, low, high))) == 0
    if share <= MANY and not constant:
        return
    what = (
        f"{share:.0%} of the values that fp32 returns ({samples.min():.4g} … {samples.max():.4g}) lie outside its output range "
        f"{low:.4g} … {high:.4g}, to which samples are clamped"
    )
    remedy = "declare the range that fits with output_range=(LOW, HIGH), or --range LOW:HIGH, and compile again"
    if most is not None and (constant or share > most):
        raise AigcEdgeError(f"{what}, so that the errors of formats cannot be measured: {remedy}")
    warnings.warn(f"{what}: {remedy}", CalibrationWarning, stacklevel=2)


def warn_of_clamped(images: npt.NDArray[np.float32]) -> None:
    """Warn where nearly all values of a denoiser's fp32 samples, clamped to [-1, 1], are at the ends of the range."""
    share = float(np.mean(np.abs(images) >= 1))
    if share > CLAMPED:
        warnings.warn(
            f"{share:.0%} of the values of the fp32 samples are clamped to the ends of the output range, which hides the errors "
            "of formats: declare the range that fits with output_range=(LOW, HIGH), or --range LOW:HIGH",
            CalibrationWarning,
            stacklevel=2,
        )
