"""The inputs of a sampling request next to what the formats were calibrated on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from aigc_edge.bundle.inputs import SampleInputs, far_from
from aigc_edge.bundle.manifest import Manifest
from aigc_edge.errors import CalibrationWarning
from aigc_edge.runtime.request import SampleRequest

REFERENCE = "fp32"  # is not calibrated
CALLER = 4  # stack level of who called Pipeline.sample


def expected_latents(
    request: SampleRequest, noise: NDArray[np.float32] | None, manifest: Manifest, format: str
) -> NDArray[np.float32] | None:
    """The latents [N, ...] of a program without rows, of the distribution that its network expects.

    `noise` are those of the request, or unit normal numbers that another library draws; None: the native sampler draws latents
    of that distribution itself. Warns with CalibrationWarning about latents of the request far outside the calibrated
    range, and about a network that takes data and is given none.
    """
    entry = manifest.calibration
    if entry is None:
        return noise
    if request.latents is not None:
        name = next(tensor.name for tensor in manifest.main.spec.inputs if tensor.role == "sample")
        check_range({name: request.latents}, manifest, format, level=CALLER + 1)
        return noise
    if entry.inputs == "arrays":
        warnings.warn(
            "this network takes data and was calibrated on examples of it, but is sampled from unit normal noise: give its input "
            "as latents",
            CalibrationWarning,
            stacklevel=CALLER,
        )
        return noise
    return noise if noise is None else SampleInputs.parse(entry.inputs).transformed(noise)


def check_range(values: Mapping[str, NDArray[np.float32]], manifest: Manifest, format: str, *, level: int = CALLER) -> None:
    """Warn with CalibrationWarning where `values` by input name lie far outside the range that the formats were calibrated on."""
    if manifest.calibration is None or format == REFERENCE:
        return
    for name, array in values.items():
        calibrated = manifest.calibration.ranges.get(name)
        difference = None if calibrated is None else far_from(np.asarray(array), calibrated)
        if difference is not None:
            warnings.warn(
                f"the values of {name!r} {difference}: the format {format} may be poor for them; compile with --calibration and "
                "data like them, or use fp32",
                CalibrationWarning,
                stacklevel=level,
            )
