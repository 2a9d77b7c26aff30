"""The NumPy executor, in float64 around the network: for every program."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_edge.diffusion import reference
from aigc_edge.verify.trace import PEERS, Evaluation, Recipe, Trace


@PEERS.register("reference")
def run(recipe: Recipe) -> Trace:
    """What the rows say, without rounding."""
    seen: list[Evaluation] = []
    draws = iter(recipe.draws)
    count = len(recipe.latents)

    def network(sample: NDArray[Any], timestep: NDArray[Any], labels: NDArray[np.int64] | None) -> NDArray[Any]:
        seen.append(Evaluation(sample[:count].copy(), float(timestep[0])))
        return recipe.network(sample, float(timestep[0]), labels)

    options: dict[str, Any] = {"classes": recipe.classes, "null_class": recipe.null_class}
    result = reference.run(recipe.program, network, recipe.latents, draw=lambda seeds, index, shape: next(draws), **options)
    return Trace(seen, result)
