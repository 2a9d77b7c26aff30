"""2:4 sparsity: which two of every four weights become zero, by magnitude or by SparseGPT."""

from __future__ import annotations

import numpy as np

from aigc_edge.compress.rounding import Floats

DAMPING = 0.01  # of the mean diagonal: a Hessian from few samples is singular
_BLOCK = 128  # columns that are updated together; what is right of them waits


def mask_of(rows: Floats, penalty: Floats | None = None) -> Floats:
    """Mask [outputs, inputs] with 1 for the two weights of largest |w| in each four neighbouring columns, else 0.

    With a `penalty` [inputs], those of largest w² / penalty. Columns after the last whole four are kept.
    """
    whole = rows.shape[1] // 4 * 4
    size = np.square(rows[:, :whole]) if penalty is None else np.square(rows[:, :whole]) / penalty[:whole]
    fours = size.reshape(len(rows), -1, 4)
    order = np.argsort(fours, axis=2, kind="stable")
    kept = np.ones(fours.shape, np.float32)
    np.put_along_axis(kept, order[:, :, :2], 0, axis=2)
    mask = np.ones_like(rows)
    mask[:, :whole] = kept.reshape(len(rows), whole)
    return mask


def inverse_root(inputs: Floats) -> Floats:
    """The upper triangular U with Uᵀ U = H⁻¹, of the damped Hessian H of `inputs` [samples, inputs]."""
    hessian = inputs.T @ inputs
    diagonal = np.einsum("ii->i", hessian)
    diagonal += np.float32(DAMPING * max(float(diagonal.mean()), 1e-12))
    # With both axes reversed the factor of H is lower triangular, and its inverse turned back is the one of the inverse of H.
    turned = hessian[::-1, ::-1]
    try:
        root = np.linalg.inv(np.linalg.cholesky(turned))
    except np.linalg.LinAlgError:  # float32 has too few digits for inputs of very different size
        root = np.linalg.inv(np.linalg.cholesky(turned.astype(np.float64)))
    return np.triu(root[::-1, ::-1]).astype(np.float32)


def sparsegpt(rows: Floats, root: Floats) -> Floats:
    """`rows` [outputs, inputs] with two of every four columns zero, and the others adjusted to compensate.

    Frantar and Alistarh 2023, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot" (arXiv 2301.00774): from
    left to right, the error of a column goes to the columns right of it along the inverse Hessian, whose factor `root` is.
    """
    weight, inputs = rows.copy(), rows.shape[1]
    for first in range(0, inputs, _BLOCK):
        last = min(first + _BLOCK, inputs)
        part = weight[:, first:last]
        errors = np.zeros_like(part)
        local = root[first:last, first:last]
        diagonal = np.diagonal(local)
        mask = np.ones_like(part)
        for column in range(last - first):
            if column % 4 == 0 and first + column + 4 <= inputs:
                four = slice(column, column + 4)
                mask[:, four] = mask_of(np.ascontiguousarray(part[:, four]), np.square(diagonal[four]))
            lost = part[:, column] * (1 - mask[:, column]) / diagonal[column]
            part[:, column] *= mask[:, column]
            part[:, column + 1 :] -= np.outer(lost, local[column, column + 1 :])
            errors[:, column] = lost
        weight[:, last:] -= errors @ root[first:last, last:]
    return weight
