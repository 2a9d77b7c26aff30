"""The smallest state that reproduces a trace: minimal realisation of a linear time-varying system.

Between two evaluations a state must hold what the later network inputs and the result depend on. The number of slots is the rank
of the Hankel matrix there, future outputs over past inputs, and no table has fewer (Ho and Kalman 1966; for time-varying systems
van der Veen and Dewilde 1992). Changes of the sample between two steps count as inputs, so that slot 0 may be changed there, as
inpainting does, with the same effect as in the scheduler. The recursion runs backwards, over a few vectors at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from aigc_edge.diffusion.importer.probe import LinearTrace
from aigc_edge.errors import ProgramError

_EXACT = 1e-13  # below it a singular value or coefficient is rounding
_INSIDE = 1e-9  # distance at which a vector counts as within the state's space


@dataclass
class SlotUpdate:
    """The update of a row: slots' = keep · slots + pull · F + clipped · (D where it is clipped) + noise · draws."""

    keep: np.ndarray
    pull: np.ndarray
    clipped: np.ndarray
    noise: np.ndarray
    columns: list[int]


def times(trace: LinearTrace) -> np.ndarray:
    """When each input arrives: −1 at the start, k at or after evaluation k, k − 1/2 for a change between two steps."""
    count = len(trace.evaluations)
    return np.array([-1, *range(count), *trace.clipped, *(k - 0.5 for k in range(1, count)), *trace.drawn])


def ranks(trace: LinearTrace, tolerance: float) -> list[int]:
    """The number of slots needed before each evaluation; directions below `tolerance` times the largest are ignored."""
    return [_significant(s, tolerance) for _, s in _spaces(trace, None)]


def _significant(values: np.ndarray, tolerance: float) -> int:
    return int((values > tolerance * values[0]).sum())


def _spaces(trace: LinearTrace, most: int | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Before each evaluation: vectors, weighted by their effect, that span the slots other than the sample; and the weights of
    the sample and of each of these.

    The effect of slot 0 is fixed by how the scheduler's own steps depend on a change of the sample; the other slots hold the
    remainder.
    """
    when, count = times(trace), len(trace.evaluations)
    spaces: list[tuple[np.ndarray, np.ndarray]] = []
    after = trace.samples[count][None]
    for k in range(count - 1, -1, -1):
        known = when < k
        need, sample = np.vstack([trace.inputs[k], after]) * known, trace.samples[k] * known
        effect = need[:, trace.change_column(k)] if k else need @ sample / (sample @ sample)
        values, vectors = np.linalg.svd(need - np.outer(effect, sample), full_matrices=False)[1:]
        weighted = np.linalg.norm(effect) * sample
        sizes = np.append(max(np.linalg.norm(weighted), values[0]), values)
        keep = _significant(sizes, _EXACT) - 1
        others = (values[:, None] * vectors)[: keep if most is None else min(keep, most - 1)]
        spaces.append((others, sizes))
        after = np.vstack([weighted, others])
    return spaces[::-1]


def realise(trace: LinearTrace, slots: int) -> tuple[list[np.ndarray], list[SlotUpdate]]:
    """The states before each evaluation and after the last, and the updates between them.

    A state holds at most `slots` slots, the first of which is the sample: coefficients over the trace's inputs [slots, width].
    """
    when, count = times(trace), len(trace.evaluations)
    states = [_basis(space, trace, k) for k, (space, _) in enumerate(_spaces(trace, slots))]
    states.append(trace.samples[count][None])
    updates = []
    for k, (before, after) in enumerate(pairwise(states)):
        size = np.linalg.norm(before, axis=1)
        keep = np.linalg.lstsq((before / size[:, None]).T, (after * (when < k)).T, rcond=None)[0].T / size
        columns, own = trace.noises(k), trace.clipped_column(k)
        clipped = np.zeros(len(after)) if own is None else after[:, own]
        keep, pull, clipped, noise = map(tidy, (keep, after[:, 1 + k], clipped, after[:, columns]))
        updates.append(SlotUpdate(keep, pull, clipped, noise, columns))
    return states, updates


def tidy(numbers: np.ndarray) -> np.ndarray:
    """`numbers`, exactly 0 or 1 where they differ from it by rounding."""
    result = np.where(np.abs(numbers) < _EXACT, 0.0, numbers)
    return np.where(np.abs(result - 1.0) < _EXACT, 1.0, result)


def _basis(space: np.ndarray, trace: LinearTrace, k: int) -> np.ndarray:
    """Slot 0 is the sample; the others are earlier D, F or samples that lie in the space, else orthonormal vectors."""
    chosen: list[np.ndarray] = []
    directions = np.linalg.svd(space, full_matrices=False)[2]
    for candidate in _candidates(trace, k):
        if len(chosen) == len(space):
            break
        norm = np.linalg.norm(candidate)
        outside = np.linalg.norm(candidate - (candidate @ directions.T) @ directions)
        if norm > 0 and outside < _INSIDE * norm and np.linalg.norm(_beyond(candidate / norm, chosen)) > 1e-3:
            chosen.append(candidate)
    while len(chosen) < len(space):
        chosen.append(np.linalg.svd(_beyond(space, chosen), full_matrices=False)[2][0])
    return np.array([trace.samples[k], *chosen])


def _beyond(vectors: np.ndarray, chosen: Sequence[np.ndarray]) -> np.ndarray:
    """The component of vectors orthogonal to the chosen ones."""
    if not chosen:
        return vectors
    orthonormal = np.linalg.qr(np.array(chosen).T)[0]
    return vectors - (vectors @ orthonormal) @ orthonormal.T


def _candidates(trace: LinearTrace, k: int) -> list[np.ndarray]:
    unit = np.eye(1, trace.samples.shape[1])
    candidates: list[np.ndarray] = []
    for j in range(k - 1, max(k - 5, -1), -1):
        output = np.roll(unit[0], 1 + j)
        skip, own = trace.denoised[j], trace.clipped_column(j)
        if own is not None:
            candidates.append(np.roll(unit[0], own))
        elif skip is not None:
            candidates.append(skip[0] * trace.samples[j] + skip[1] * output)
        candidates += [output, trace.samples[j]]
    return candidates


def draws(noise: np.ndarray, last: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """The noise of a row as at most two draws: (scale of each slot, weights of the scheduler's draws).

    Raises ProgramError where two draws are not enough.
    """
    if last:
        noise = noise[:1]
    used = np.flatnonzero(np.abs(noise).max(axis=0, initial=0.0))
    if len(used) == 0:
        return []
    if len(used) <= (1 if last else 2):
        return [(noise[:, j], np.eye(noise.shape[1])[j]) for j in used]
    left, values, right = np.linalg.svd(noise, full_matrices=False)
    size = _significant(values, 1e-12)
    if size > (1 if last else 2):
        raise ProgramError(f"the scheduler adds {size} independent noises to its state in one step, a row holds two")
    return [(left[:, j] * values[j], right[j]) for j in range(size)]
