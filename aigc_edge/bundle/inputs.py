"""What a generator of one evaluation is fed with: a distribution of random inputs, or arrays of a data set.

Formats are calibrated on it and compared on it; every third array is for comparing alone. A denoiser needs none: its inputs are
the states of its own program.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aigc_edge.errors import AigcEdgeError

Arrays = Mapping[str, npt.NDArray[Any]]
DISTRIBUTIONS = "normal, uniform (from -1 to 1), uniform:LOW:HIGH or sphere"
FEW = 8  # samples: of fewer images, further ones are made by shifting and mirroring them
APART = 3  # of arrays each APARTth judges formats, the others calibrate and train; fewer arrays than that do both
FAR = 0.5  # of the width of the calibrated range: how far beyond it values are allowed before a warning
SMALL = 0.02  # of the largest calibrated value: values that are all smaller have another scale
ONE_SIDED = 16  # values: as many of unit normal noise have both signs, but for one case in 2^15


@dataclass(frozen=True)
class SampleInputs:
    """A distribution by `kind`: "normal", "uniform" from `low` to `high`, "sphere", or "arrays" [k, ...] by input name.

    "normal" is the unit normal distribution. "sphere" is uniform on the sphere of radius sqrt(d) in d dimensions: normal vectors
    divided by their root mean square.
    """

    kind: str = "normal"
    low: float = -1.0
    high: float = 1.0
    arrays: Arrays = field(default_factory=dict, compare=False)
    divided: bool = field(default=False, compare=False)  # whether the arrays are part of those that were given

    @staticmethod
    def parse(value: str | os.PathLike[str] | Arrays | SampleInputs | None) -> SampleInputs:
        """The inputs that a text such as "uniform:0:1", the path of an .npz file or a mapping of arrays describes.

        None is "normal". Raises AigcEdgeError for anything else, and for a file that cannot be read.
        """
        if isinstance(value, SampleInputs):
            return value
        if value is None:
            return SampleInputs()
        if isinstance(value, Mapping):
            return SampleInputs("arrays", arrays=_validated(value))
        text = os.fspath(value)
        kind, *bounds = text.split(":")
        if text.lower().endswith(".npz"):
            return SampleInputs("arrays", arrays=_load(Path(text)))
        if text in ("normal", "uniform", "sphere"):
            return SampleInputs(text)
        try:
            low, high = map(float, bounds)
        except ValueError:
            low = high = 0.0
        if kind != "uniform" or not (np.isfinite([low, high]).all() and low < high):
            raise AigcEdgeError(f"the inputs {text!r} are unknown: give {DISTRIBUTIONS}, or arrays in an .npz file")
        return SampleInputs("uniform", low, high)

    def __str__(self) -> str:
        return f"uniform:{self.low:.9g}:{self.high:.9g}" if self.kind == "uniform" else self.kind

    @property
    def count(self) -> int:
        """The number of samples that the arrays hold; 0 for a distribution."""
        return len(next(iter(self.arrays.values()), ()))

    def part(self, held_out: bool) -> SampleInputs:
        """The arrays that formats are judged on (every third), or those that they are calibrated and trained on (the others).

        Samples of several inputs stay paired. A distribution, and fewer than APART arrays, are both parts.
        """
        if self.count < APART:
            return self
        return self.chosen((np.arange(self.count) % APART == APART - 1) == held_out)

    def chosen(self, samples: npt.NDArray[np.bool_]) -> SampleInputs:
        """The inputs with those `samples` [k] of their arrays that are true."""
        return replace(self, arrays={name: np.asarray(array)[samples] for name, array in self.arrays.items()}, divided=True)

    def transformed(self, noise: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Inputs of the distribution from unit normal `noise` [n, ...], element by element or sample by sample."""
        if self.kind == "uniform":
            share = (_normal_cumulative(noise) * (self.high - self.low) + self.low).astype(np.float32)
            return np.clip(share, np.float32(self.low), np.float32(self.high))
        if self.kind == "sphere":
            rms = np.sqrt(np.mean(np.square(noise, dtype=np.float64), axis=tuple(range(1, noise.ndim)), keepdims=True))
            return (noise / rms).astype(np.float32)
        return noise

    def example(self, name: str, noise: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Values of the input `name` to check a network with: from unit normal `noise` [n, ...], or the arrays, in its shape.

        Arrays of another image size are repeated or cut.
        """
        if self.kind != "arrays":
            return self.transformed(noise)
        if name not in self.arrays:
            return noise
        values = self.take(name, np.shape(self.arrays[name])[1:], np.arange(len(noise)), 0)
        for axis, size in enumerate(noise.shape[1:], 1):
            values = np.take(values, np.arange(size), axis, mode="wrap")
        return values

    def take(self, name: str, shape: Sequence[int], index: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.float32]:
        """The samples [n, *shape] of the input `name` with these indices: those of the arrays, or drawn from the distribution.

        Sample i does not depend on the others. Beyond the end of fewer than FEW arrays, further samples are made from them (but
        not of vectors that are part of more: they are repeated).
        """
        if self.kind == "arrays":
            values = np.asarray(self.arrays[name], np.float32)
            vary = len(values) < FEW and len(self.arrays) == 1 and not (self.divided and values.ndim <= 2)
            return np.stack([_variant(values, int(i), seed) if vary else values[i % len(values)] for i in index])
        drawn = [np.random.default_rng([seed, int(i)]).standard_normal(shape, dtype=np.float32) for i in index]
        return self.transformed(np.stack(drawn))


def far_from(values: npt.NDArray[Any], calibrated: tuple[float, float]) -> str | None:
    """How `values` differ from the `calibrated` range [low, high], as part of a sentence; None where they are near it."""
    low, high = calibrated
    if not values.size:
        return None
    least, most, margin = float(values.min()), float(values.max()), FAR * (high - low)
    within = f"the range it was calibrated on is {low:.3g} … {high:.3g}"
    if not (low - margin <= least and most <= high + margin):
        return f"reach from {least:.3g} to {most:.3g}, {within}"
    if max(-least, most) < SMALL * max(-low, high) and max(-least, most) > 0:
        return f"are at most {max(-least, most):.3g}, {within}"
    return None


def looks_normal(values: npt.NDArray[Any]) -> bool:
    """Whether example values are a placeholder: constant, or as unit normal noise would be."""
    flat = np.asarray(values, np.float64).ravel()
    if flat.size < 2 or float(np.ptp(flat)) == 0:
        return True
    if flat.size >= ONE_SIDED and not flat.min() < 0 < flat.max():
        return False
    allowed = 5 / np.sqrt(flat.size)  # five standard errors, nearly, of mean and deviation alike
    return bool(abs(flat.mean()) < allowed and abs(flat.std() - 1) < allowed and np.abs(flat).max() < 7)


def _normal_cumulative(noise: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The cumulative distribution function of the unit normal distribution (Abramowitz and Stegun 1964, 7.1.26; error 1.5e-7)."""
    x = np.abs(noise.astype(np.float64)) / np.sqrt(2)
    t = 1 / (1 + 0.3275911 * x)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    tail = 0.5 * series * np.exp(-x * x)
    return np.where(noise < 0, tail, 1 - tail)


def _variant(values: npt.NDArray[np.float32], index: int, seed: int) -> npt.NDArray[np.float32]:
    """Sample `index`: one of `values`, or beyond them one shifted and mirrored in space; of vectors, values drawn from all."""
    if index < len(values):
        return values[index]
    rng = np.random.default_rng([seed, index])
    value = values[index % len(values)]
    if value.ndim < 2:
        return rng.choice(values.ravel(), value.shape)
    for axis in range(1, value.ndim):
        value = np.roll(value, int(rng.integers(value.shape[axis])), axis)
        value = np.flip(value, axis) if rng.integers(2) else value
    return value


def _load(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # zip, NumPy and the system have errors of their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AigcEdgeError(f"{path} cannot be read as arrays ({reason}): give an .npz file that numpy.savez wrote") from error
    return _validated(arrays)


def _validated(arrays: Mapping[str, Any]) -> Arrays:
    by_name = {str(name): np.asarray(value) for name, value in arrays.items()}
    if not by_name:
        raise AigcEdgeError("no arrays were given as inputs: give one [k, ...] for each input of the network, by its name")
    for name, value in by_name.items():
        if value.ndim < 1 or len(value) < 1 or value.dtype.kind not in "fiub" or not np.isfinite(value.astype(np.float64)).all():
            raise AigcEdgeError(
                f"the inputs {name!r} are {value.dtype} {list(value.shape)}: give finite numbers [k, ...] with k of at least 1"
            )
    if len({len(value) for value in by_name.values()}) > 1:
        sizes = ", ".join(f"{name} {len(value)}" for name, value in by_name.items())
        raise AigcEdgeError(f"the inputs have different numbers of samples ({sizes}): give as many of each")
    return by_name
