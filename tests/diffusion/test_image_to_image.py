"""Starting in the middle: the same as the end of a whole run, and close to the image that it starts from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aigc_edge.diffusion import Program, build, truncate
from aigc_edge.diffusion.reference import run
from aigc_edge.errors import ProgramError

EDM = {"prediction": "edm", "sigma_min": 0.02, "sigma_max": 20.0}


@pytest.mark.parametrize("schedule", [EDM, {"prediction": "flow"}, {"prediction": "v", "betas": "linear", "spacing": "trailing"}])
@pytest.mark.parametrize(("strength", "taken"), [(0.3, 3), (0.55, 5), (0.99, 9), (1.0, 10)])
def test_it_is_the_end_of_the_whole(schedule: dict[str, Any], strength: float, taken: int) -> None:
    """One-step methods keep no history: the rows are the last rows."""
    whole = build(schedule, "euler", 10, guidance_scale=3.0)
    part = truncate(whole, strength)
    assert part.rows == whole.rows[10 - taken :]
    assert part.guidance_scale == 3.0


def test_exact_network_brings_a_noised_image_back(exact: SimpleNamespace, rng: np.random.Generator) -> None:
    """With the exact denoiser of Gaussian data the result is where the ODE takes the noised image, whatever the solver."""
    data = exact.GaussianData(rng)
    for solver in ("heun", "dpmpp_2m", "unipc"):
        program = truncate(build(EDM | {"final_sigma": "sigma_min"}, solver, 400), 0.5)
        image, noise = rng.normal(size=(6, 5)), rng.normal(size=(6, 5))
        start = program.meta["start"]
        noisy = start["alpha"] * image + start["sigma"] * noise
        network = exact.ideal_network("edm", data, exact.levels_of(program))
        wanted = data.move(noisy, (start["alpha"], start["sigma"]), (1.0, 0.02))
        assert np.allclose(run(program, network, program.add_noise(image, noise)), wanted, atol=2e-4)


def test_history_is_not_relied_on() -> None:
    """A multistep method begins anew with its first order."""
    part = truncate(build(EDM, "dpmpp_2m", 10, lower_order_final=True), 0.5)
    assert part.rows[0].after[0][1] == 0.0
    assert part.rows[1].after[0][1] != 0.0
    assert part.meta["options"] == {"lower_order_final": True, "strength": 0.5}
    assert truncate(part, 0.2).nfe == 2
    assert Program.from_json(part.to_json()).meta["start"] == part.meta["start"]


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan"), "half", True])
def test_strength_out_of_range(strength: Any) -> None:
    with pytest.raises(ProgramError, match="strength must be"):
        build(EDM, "euler", 10, strength=strength)


def test_refusals(rng: np.random.Generator) -> None:
    whole = build(EDM, "euler", 10)
    with pytest.raises(ProgramError, match=r"strength 0.05 of 10 steps leaves none"):
        truncate(whole, 0.05)
    with pytest.raises(ProgramError, match="starts from pure noise"):
        whole.add_noise(rng.normal(size=(1, 2)), rng.normal(size=(1, 2)))
    with pytest.raises(ProgramError, match=r"noise must be of the image's shape \(1, 2\)"):
        truncate(whole, 0.5).add_noise(rng.normal(size=(1, 2)), rng.normal(size=(2, 2)))
    bare = Program("mine", whole.slots, whole.init_scale, whole.rows)
    with pytest.raises(ProgramError, match="does not say what it was built from"):
        truncate(bare, 0.5)
