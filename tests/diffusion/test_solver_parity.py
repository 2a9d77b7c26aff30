"""Our own solvers against diffusers' schedulers on the same noise levels: they do what the imported table does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aigc_edge.diffusion import Program, build
from aigc_edge.diffusion.importing import import_scheduler
from aigc_edge.diffusion.recheck import draw_of, toy
from aigc_edge.diffusion.reference import run

torch = pytest.importorskip("torch", reason="diffusers' schedulers need torch")
diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: parity with it is not tested")
pytestmark = [pytest.mark.filterwarnings("ignore")]

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
END = {"final_sigmas_type": "sigma_min"}
SDE = {"algorithm_type": "sde-dpmsolver++"}
TOLERANCE = 1e-5  # their coefficients are computed in float32

CASES: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("unipc", {"lower_order_final": True}, "UniPCMultistepScheduler", END),
    ("unipc", {}, "UniPCMultistepScheduler", {}),
    ("unipc", {"order": 3}, "UniPCMultistepScheduler", {"solver_order": 3, "lower_order_final": False, **END}),
    ("unipc", {"order": 3, "lower_order_final": True}, "UniPCMultistepScheduler", {"solver_order": 3, **END}),
    ("unipc", {"variant": "bh1", "lower_order_final": True}, "UniPCMultistepScheduler", {"solver_type": "bh1", **END}),
    ("unipc", {"order": 1}, "UniPCMultistepScheduler", {"solver_order": 1}),
    ("dpmpp_2m_sde", {}, "DPMSolverMultistepScheduler", {**SDE, **END, "lower_order_final": False}),
    ("dpmpp_2m_sde", {}, "DPMSolverMultistepScheduler", SDE),
    ("dpmpp_2m_sde", {"solver_type": "heun"}, "DPMSolverMultistepScheduler", {**SDE, "solver_type": "heun"}),
    ("dpmpp_2m_sde", {"eta": 0.0}, "DPMSolverMultistepScheduler", {"lower_order_final": False, **END}),
    ("deis", {"order": 2}, "DEISMultistepScheduler", {"lower_order_final": False}),
    ("deis", {"order": 3}, "DEISMultistepScheduler", {"solver_order": 3, "lower_order_final": False}),
    ("deis", {"order": 1}, "DEISMultistepScheduler", {"solver_order": 1}),
    ("lms", {}, "LMSDiscreteScheduler", {}),
    ("dpm2", {}, "KDPM2DiscreteScheduler", {}),
    ("dpm2_ancestral", {}, "KDPM2AncestralDiscreteScheduler", {}),
    ("dpmpp_sde", {}, "DPMSolverSDEScheduler", {}),
    ("consistency", {"sigma_min": 0.002, "clip": (-1.0, 1.0)}, "CMStochasticIterativeScheduler", {}),
]


def own(solver: str, given: dict[str, Any], scheduler: Any, init_scale: float) -> Program:
    sigmas = [float(s) for i, s in enumerate(scheduler.sigmas) if i == 0 or s != scheduler.sigmas[i - 1]]
    schedule: dict[str, Any] = {"prediction": "epsilon", "kind": "table", "init_scale": init_scale}
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):  # variance-preserving coordinates
        schedule["alphas"] = [1 / np.hypot(1, s) for s in sigmas]
        schedule["sigmas"] = [s / np.hypot(1, s) for s in sigmas]
    else:
        schedule["sigmas"] = sigmas
    return build(schedule, solver, len(sigmas) - 1, **given)


@pytest.mark.parametrize("steps", [2, 7, 20])
@pytest.mark.parametrize(("solver", "given", "name", "config"), CASES)
def test_same_as_imported(
    rng: np.random.Generator, solver: str, given: dict[str, Any], name: str, config: dict[str, Any], steps: int
) -> None:
    try:
        scheduler = getattr(diffusers, name)(**(config if name.startswith("CM") else SD | config))
    except ImportError:
        pytest.skip(f"{name} needs torchsde")
    found = import_scheduler(scheduler, steps)
    scheduler.set_timesteps(steps)
    ours = own(solver, given, scheduler, found.program.init_scale)
    assert ours.nfe == found.program.nfe
    x, network = rng.normal(size=(2, 3, 4, 5)), toy(rng, 3)
    noise = [rng.normal(size=x.shape) for _ in found.trace.drawn]

    def result(program: Program) -> np.ndarray:
        rows = iter(range(program.nfe))
        if name.startswith("CM"):  # theirs has a network of its own kind around D
            return run(
                program, lambda given, time, classes: denoised(program, next(rows), given), x, draw=draw_of(found.draws, noise)
            )
        return run(program, lambda given, time, classes: network(next(rows), given), x, draw=draw_of(found.draws, noise))

    def denoised(program: Program, index: int, given: np.ndarray) -> np.ndarray:
        row, theirs = program.rows[index], found.program.rows[index]
        sample = given / row.c_in
        wanted = theirs.c_skip * sample + theirs.c_out * network(index, theirs.c_in * sample)
        return (wanted - row.c_skip * sample) / row.c_out

    a, b = result(ours), result(found.program)
    # Their sigma_down of the ancestral steps is a difference of float32 squares.
    assert np.abs(a - b).max() < (50 if solver == "dpm2_ancestral" else 1) * TOLERANCE * np.abs(b).max()
    assert ours.slots >= found.program.slots or steps == 2
