"""The NumPy reference executor, in float64 around the network: for every program."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_edge.diffusion import reference
from aigc_edge.verify.base import PEERS, NetworkInput, SamplerInputs, SamplerTrace


@PEERS.register("reference")
def run(inputs: SamplerInputs) -> SamplerTrace:
    """The program by the reference executor."""
    evaluations: list[NetworkInput] = []
    draws = iter(inputs.draws)
    count = len(inputs.latents)

    def network(sample: NDArray[Any], timestep: NDArray[Any], labels: NDArray[np.int64] | None) -> NDArray[Any]:
        evaluations.append(NetworkInput(sample[:count].copy(), float(timestep[0])))
        return inputs.network(sample, float(timestep[0]), labels)

    options: dict[str, Any] = {"classes": inputs.classes, "null_class": inputs.null_class}
    result = reference.run(inputs.program, network, inputs.latents, draw=lambda seeds, index, shape: next(draws), **options)
    return SamplerTrace(evaluations, result)
