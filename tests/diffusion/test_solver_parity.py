"""Our own solvers against diffusers' schedulers on the same noise levels, in float64: they do what the imported table does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aigc_edge.diffusion import Program, build
from aigc_edge.diffusion.importer import ImportedScheduler, import_scheduler
from aigc_edge.diffusion.importer.draws import noise_function
from aigc_edge.diffusion.importer.residual import nonlinear_network
from aigc_edge.diffusion.reference import run

torch = pytest.importorskip("torch", reason="diffusers' schedulers need torch")
diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: parity with it is not tested")
pytestmark = [pytest.mark.filterwarnings("ignore")]

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
END = {"final_sigmas_type": "sigma_min"}
SDE = {"algorithm_type": "sde-dpmsolver++"}
TOLERANCE = 1e-11  # of the largest number; 1e-13 is what was seen at most


def sa(tau: float, predictor: int, corrector: int) -> dict[str, Any]:
    return {
        "tau_func": lambda t: tau, "predictor_order": predictor, "corrector_order": corrector, "lower_order_final": False,
    }  # fmt: skip


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
    # Theirs counts the new D in the corrector's order.
    ("sa_solver", {"few_steps": True, "corrector_order": 1}, "SASolverScheduler", sa(1.0, 2, 2)),
    ("sa_solver", {"few_steps": True, "predictor_order": 3, "tau": 0.6}, "SASolverScheduler", sa(0.6, 3, 3)),
    (
        "sa_solver",
        {"few_steps": True, "predictor_order": 4, "corrector_order": 3, "tau": 0.0},
        "SASolverScheduler",
        sa(0.0, 4, 4),
    ),
]


def levels(scheduler: Any) -> dict[str, Any]:
    sigmas = [float(s) for i, s in enumerate(scheduler.sigmas) if i == 0 or s != scheduler.sigmas[i - 1]]
    if not hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        return {"sigmas": sigmas}
    return {"alphas": [1 / np.hypot(1, s) for s in sigmas], "sigmas": [s / np.hypot(1, s) for s in sigmas]}


def own(solver: str, given: dict[str, Any], schedule: dict[str, Any], init_scale: float) -> Program:
    whole = {"prediction": "epsilon", "kind": "table", "init_scale": init_scale} | schedule
    whole |= {key: np.asarray(whole[key]).tolist() for key in ("alphas", "sigmas") if key in whole}
    return build(whole, solver, len(schedule["sigmas"]) - 1, **given)


def difference(ours: Program, found: ImportedScheduler, rng: np.random.Generator) -> float:
    """Of the results of the same network and noise, relative to the largest number."""
    assert ours.nfe == found.program.nfe
    x, network = rng.normal(size=(2, 3, 4, 5)), nonlinear_network(rng, 3)
    noise = [rng.normal(size=x.shape) for _ in found.trace.drawn]

    def result(program: Program) -> np.ndarray:
        rows = iter(range(program.nfe))
        return run(program, lambda given, time, classes: network(next(rows), given), x, draw=noise_function(found.draws, noise))

    a, b = result(ours), result(found.program)
    return float(np.abs(a - b).max() / np.abs(b).max())


def make(widen: Any, name: str, config: dict[str, Any]) -> Any:
    kind = getattr(diffusers, name)
    widen(kind)
    try:
        return kind(**config)
    except ImportError:
        pytest.skip(f"{name} needs torchsde")


@pytest.mark.parametrize("steps", [2, 7, 20])
@pytest.mark.parametrize(("solver", "given", "name", "config"), CASES)
def test_same_as_imported(
    widen: Any, rng: np.random.Generator, solver: str, given: dict[str, Any], name: str, config: dict[str, Any], steps: int
) -> None:
    scheduler = make(widen, name, SD | config)
    found = import_scheduler(scheduler, steps)
    scheduler.set_timesteps(steps)
    ours = own(solver, given, levels(scheduler), found.program.init_scale)
    assert difference(ours, found, rng) < TOLERANCE
    assert ours.slots >= found.program.slots or steps == 2


@pytest.mark.parametrize("steps", [2, 7, 20])
@pytest.mark.parametrize("config", [{}, {"clip_denoised": False, "sigma_data": 0.7, "s_noise": 0.9}])
def test_consistency_model(widen: Any, rng: np.random.Generator, config: dict[str, Any], steps: int) -> None:
    """Their boundary scaling is the prediction "consistency", their time inputs are 1000 times ours."""
    scheduler = make(widen, "CMStochasticIterativeScheduler", config)
    found = import_scheduler(scheduler, steps)
    scheduler.set_timesteps(steps)
    schedule = levels(scheduler) | {"prediction": "consistency", "sigma_data": config.get("sigma_data", 0.5)}
    clip = {"clip": (-1.0, 1.0)} if config.get("clip_denoised", True) else {}
    given = {"sigma_min": 0.002, "s_noise": config.get("s_noise", 1.0), **clip}
    ours = own("consistency", given, schedule, found.program.init_scale)
    assert difference(ours, found, rng) < TOLERANCE
    assert [1000 * row.timestep for row in ours.rows] == pytest.approx([row.timestep for row in found.program.rows])


@pytest.mark.parametrize("steps", [2, 5, 20])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm(widen: Any, rng: np.random.Generator, variance: str, prediction: str, steps: int) -> None:
    config = {"variance_type": f"fixed_{variance}", "clip_sample": False, "prediction_type": prediction}
    scheduler = make(widen, "DDPMScheduler", SD | config)
    found = import_scheduler(scheduler, steps)
    signal = [float(scheduler.alphas_cumprod[int(row.timestep)]) for row in found.program.rows] + [1.0]
    schedule = {"prediction": {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v"}[prediction],
                "alphas": np.sqrt(signal), "sigmas": np.sqrt(1 - np.array(signal))}  # fmt: skip
    assert difference(own("ddpm", {"variance": variance}, schedule, 1.0), found, rng) < TOLERANCE


@pytest.mark.parametrize("steps", [2, 5, 20])
def test_ipndm(widen: Any, rng: np.random.Generator, steps: int) -> None:
    """On given levels: by default theirs begins at alpha 0, where it takes D for 0 and ours asks the network."""
    betas = [*np.sort(rng.uniform(0.05, 0.99, steps))[::-1].tolist(), 0.0]
    found = import_scheduler(make(widen, "IPNDMScheduler", {"trained_betas": betas}), steps)
    schedule = {"prediction": "v", "alphas": np.sqrt(1 - np.square(betas)), "sigmas": betas}
    assert difference(own("ipndm", {}, schedule, 1.0), found, rng) < TOLERANCE


def straight_betas(first: float, slope: float) -> dict[str, Any]:
    """A network of 1000 timesteps whose sigma / alpha is first + slope · t, so that "half-way" means the same in both."""
    signal = 1 / (1 + (first + slope * np.arange(1000)) ** 2)
    return {"trained_betas": (1 - signal / np.append(1.0, signal[:-1])).tolist()}


def own_levels(scheduler: Any, times: list[int], last: float) -> dict[str, Any]:
    signal = np.array([*[float(scheduler.alphas_cumprod[t]) for t in times], last])
    return {"alphas": np.sqrt(signal), "sigmas": np.sqrt(1 - signal)}


@pytest.mark.parametrize("steps", [4, 5, 20])
def test_pndm(widen: Any, rng: np.random.Generator, steps: int) -> None:
    """Theirs goes half-way in timesteps, ours in sigma / alpha; here these are the same."""
    scheduler = make(widen, "PNDMScheduler", straight_betas(0.02, 0.01) | {"set_alpha_to_one": True})
    found = import_scheduler(scheduler, steps)
    times = [i * (1000 // steps) for i in range(steps)][::-1]
    assert difference(own("pndm", {}, own_levels(scheduler, times, 1.0), 1.0), found, rng) < TOLERANCE


@pytest.mark.parametrize("steps", [2, 3, 5, 20])
def test_pndm_of_latent_diffusion(widen: Any, rng: np.random.Generator, steps: int) -> None:
    config = SD | {"skip_prk_steps": True, "steps_offset": 1}
    scheduler = make(widen, "PNDMScheduler", config)
    found = import_scheduler(scheduler, steps)
    times = [i * (1000 // steps) + 1 for i in range(steps)][::-1]
    schedule = own_levels(scheduler, times, float(scheduler.final_alpha_cumprod))
    assert difference(own("pndm", {"warm_up": "heun"}, schedule, 1.0), found, rng) < TOLERANCE


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("scaling", [10.0, 0.01])
def test_lcm(widen: Any, rng: np.random.Generator, scaling: float, prediction: str, steps: int) -> None:
    """With their boundary scaling, which they apply to the variance-preserving sample."""
    config = {"timestep_scaling": scaling, "prediction_type": prediction}
    scheduler = make(widen, "LCMScheduler", SD | config)
    found = import_scheduler(scheduler, steps)
    times = [int(row.timestep) for row in found.program.rows]
    schedule = own_levels(scheduler, times, 1.0) | {"timesteps": times}
    schedule |= {"prediction": {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v"}[prediction]}
    assert difference(own("lcm", {"timestep_scaling": scaling}, schedule, 1.0), found, rng) < TOLERANCE
    assert difference(own("lcm", {}, schedule, 1.0), found, rng) < (1e-3 if scaling == 10.0 else np.inf)
    vp = {"prediction": schedule["prediction"], "betas": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    whole = build(vp | {"spacing": "trailing"}, "lcm", 4, timestep_scaling=scaling)  # other coordinates, the same mixture
    signal = 1 / (1 + whole.rows[3].sigma ** 2)
    share = 0.25 / ((scaling * whole.rows[3].timestep) ** 2 + 0.25)
    assert whole.rows[3].after[0][0] == pytest.approx(share * signal**0.5, rel=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_tcd(widen: Any, rng: np.random.Generator, eta: float) -> None:
    """Their eta counts in timesteps, our gamma in sigma / alpha; here these are the same."""
    times = [900, 600, 300, 100]
    scheduler = make(widen, "TCDScheduler", straight_betas(0.0, 0.01))
    found = import_scheduler(scheduler, None, timesteps=times, eta=eta)
    assert difference(own("tcd", {"gamma": eta}, own_levels(scheduler, times, 1.0), 1.0), found, rng) < TOLERANCE
