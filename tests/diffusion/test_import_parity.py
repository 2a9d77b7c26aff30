"""Every diffusers scheduler that can be a table, in several configurations, against its own loop around the same network."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aigc_edge.diffusion.importer import ImportedScheduler, import_scheduler
from aigc_edge.diffusion.importer.draws import noise_function
from aigc_edge.diffusion.reference import run

torch = pytest.importorskip("torch", reason="diffusers' schedulers need torch")
diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: importing from it is not tested")

SHAPE = (2, 3, 4, 2)
TOLERANCE = 1e-5  # of the largest number; diffusers casts some samples to float32 on its way
STEPS = (2, 5, 20)
pytestmark = [pytest.mark.filterwarnings("ignore")]

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
V, X0, FLOW = ({"prediction_type": kind} for kind in ("v_prediction", "sample", "flow_prediction"))
OPEN = {"clip_sample": False}
KARRAS, EXPONENTIAL, BETA, FLOWS = ({f"use_{kind}_sigmas": True} for kind in ("karras", "exponential", "beta", "flow"))
LEADING, TRAILING, LINSPACE = ({"timestep_spacing": kind} for kind in ("leading", "trailing", "linspace"))
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
ZERO_SNR = {"rescale_betas_zero_snr": True}
MU = {"mu": 0.8}
CLIPPED = {"use_clipped_model_output": True}

DDIM = [
    (OPEN, {}),
    ({**SD, **OPEN, **V, **TRAILING}, {"eta": 0.7}),
    ({**SD, "clip_sample_range": 0.8, "steps_offset": 1, "set_alpha_to_one": False}, CLIPPED),
    ({**SD, **OPEN, **V, **ZERO_SNR, **TRAILING}, {"eta": 1.0}),
    ({**COSINE, **X0}, CLIPPED),
    ({}, {}),
]
DDPM = [
    ({}, {}),
    ({**SD, **V, **OPEN, **TRAILING}, {}),
    ({**COSINE, **X0, "variance_type": "fixed_large", "clip_sample_range": 0.7}, {}),
    ({**SD, "variance_type": "fixed_small_log", **LINSPACE}, {}),
    ({**SD, "thresholding": True, "clip_sample": False}, {}),
]
SIGMAS = [
    ({}, {}),
    ({**SD, **V, **KARRAS}, {}),
    ({**SD, **EXPONENTIAL, **TRAILING}, {}),
    ({**SD, **LEADING, "steps_offset": 1}, {}),
]
MULTISTEP = [
    ({}, {}),
    ({**SD, **V, **KARRAS, "solver_order": 3}, {}),
    ({**SD, "solver_order": 1, **EXPONENTIAL}, {}),
    ({**FLOW, **FLOWS, "flow_shift": 3.0}, {}),
    ({**SD, **X0, "solver_order": 2, "lower_order_final": False}, {}),
    ({**SD, "thresholding": True, "sample_max_value": 0.8}, {}),
]
DPM = [
    *MULTISTEP[:4],
    ({**SD, "algorithm_type": "sde-dpmsolver++", **KARRAS}, {}),
    ({**SD, "algorithm_type": "dpmsolver", "solver_type": "heun", "final_sigmas_type": "sigma_min"}, {}),
    ({**SD, "algorithm_type": "sde-dpmsolver++", "solver_order": 3, "final_sigmas_type": "sigma_min"}, {}),
]
LCM = [
    ({}, {}),
    ({**SD, **V, "clip_sample": True}, {}),
    ({**SD, **ZERO_SNR, **X0}, {}),
    ({**COSINE, "original_inference_steps": 100, "timestep_scaling": 5.0}, {}),
]
FLOW_MATCH = [
    ({}, {}),
    ({"shift": 3.0, **KARRAS}, {}),
    ({"use_dynamic_shifting": True}, MU),
    ({"shift": 2.0, "shift_terminal": 0.1, **EXPONENTIAL}, {}),
]
EDM = [
    ({}, {}),
    ({**V, "sigma_schedule": "exponential"}, {}),
    ({"sigma_data": 1.0, "sigma_max": 40.0, "rho": 5.0}, {}),
    ({"final_sigmas_type": "sigma_min"}, {}),
]

CASES: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {
    "CMStochasticIterativeScheduler": [
        ({}, {}),
        ({"clip_denoised": False}, {}),
        ({"rho": 5.0, "s_noise": 0.9}, {}),
        ({"sigma_max": 40.0}, {}),
    ],
    "CogVideoXDDIMScheduler": DDIM,
    "CogVideoXDPMScheduler": [(c, {}) for c, _ in DDIM[:2]] + [(c, {}) for c, _ in DDIM[3:]],
    "ConsistencyDecoderScheduler": [
        ({}, {}),
        ({"sigma_data": 0.3}, {}),
        ({"sigma_data": 1.0}, {}),
        ({"num_train_timesteps": 1100}, {}),
    ],
    "CosineDPMSolverMultistepScheduler": [
        ({}, {}),
        ({"solver_order": 1}, {}),
        ({"sigma_schedule": "karras"}, {}),
        ({"solver_type": "heun"}, {}),
    ],
    "DDIMInverseScheduler": [
        ({}, {}),
        (OPEN, {}),
        ({**OPEN, **SD, **V}, {}),
        ({**OPEN, **TRAILING}, {}),
        ({**OPEN, **COSINE}, {}),
    ],
    "DDIMParallelScheduler": DDIM,
    "DDIMScheduler": DDIM,
    "DDPMParallelScheduler": DDPM,
    "DDPMScheduler": DDPM,
    "DDPMWuerstchenScheduler": [({}, {}), ({"scaler": 2.0}, {}), ({"s": 0.02}, {}), ({"scaler": 0.5}, {})],
    "DEISMultistepScheduler": MULTISTEP,
    "DPMSolverMultistepInverseScheduler": [
        ({}, {}),
        ({**SD, **V}, {}),
        ({**SD, "solver_order": 3}, {}),
        ({**SD, "algorithm_type": "dpmsolver"}, {}),
    ],
    "DPMSolverMultistepScheduler": [*DPM, ({**SD, "use_lu_lambdas": True, "euler_at_final": True}, {})],
    "DPMSolverSDEScheduler": [
        ({}, {}),
        ({**SD, **V, **KARRAS}, {}),
        ({**SD, **EXPONENTIAL}, {"s_noise": 0.9}),
        ({**SD, **LEADING}, {}),
    ],
    "DPMSolverSinglestepScheduler": [*DPM[:6], ({**SD, "lower_order_final": True, "solver_order": 3}, {})],
    "EDMDPMSolverMultistepScheduler": [*EDM, ({"solver_order": 3}, {}), ({"algorithm_type": "sde-dpmsolver++"}, {})],
    "EDMEulerScheduler": [*EDM, ({}, {"s_churn": 4.0, "s_noise": 1.01})],
    "EulerAncestralDiscreteScheduler": [
        ({}, {}),
        ({**SD, **V}, {}),
        ({**SD, **TRAILING}, {}),
        ({**SD, **ZERO_SNR, **V, **TRAILING}, {}),
    ],
    "EulerDiscreteScheduler": [
        *SIGMAS,
        ({**SD, **V, **ZERO_SNR, **TRAILING}, {"s_churn": 3.0, "s_tmin": 0.1, "s_noise": 1.003}),
        ({**SD, **BETA, "final_sigmas_type": "sigma_min"}, {}),
        ({**SD, "timestep_type": "continuous", **V, **KARRAS, "sigma_min": 0.03, "sigma_max": 300.0}, {}),
    ],
    "FlowMatchEulerDiscreteScheduler": [*FLOW_MATCH, ({"stochastic_sampling": True}, {}), ({"shift": 3.0}, {"s_churn": 2.0})],
    "FlowMatchHeunDiscreteScheduler": [({}, {}), ({"shift": 3.0}, {}), ({"shift": 0.5}, {}), ({"num_train_timesteps": 500}, {})],
    "FlowMatchLCMScheduler": FLOW_MATCH,
    "HeunDiscreteScheduler": [*SIGMAS, ({**SD, "clip_sample": True, "clip_sample_range": 0.9}, {}), ({**SD, **BETA, **X0}, {})],
    "IPNDMScheduler": [
        ({}, {}),
        ({"num_train_timesteps": 500}, {}),
        ({"num_train_timesteps": 100}, {}),
        ({"num_train_timesteps": 2000}, {}),
    ],
    "KDPM2AncestralDiscreteScheduler": SIGMAS,
    "KDPM2DiscreteScheduler": SIGMAS,
    "LCMScheduler": LCM,
    "LMSDiscreteScheduler": [*SIGMAS[:3], ({**SD}, {"order": 2})],
    "LTXEulerAncestralRFScheduler": [({}, {}), ({"eta": 0.5}, {}), ({"eta": 0.0}, {}), ({"s_noise": 0.9}, {})],
    "MiniMaxH3Scheduler": [({}, {}), ({"shift": 3.0}, {}), ({"shift": 1.0}, {}), ({"shift": 0.5}, {})],
    "PNDMScheduler": [
        ({}, {}),
        ({**SD, "skip_prk_steps": True, "steps_offset": 1}, {}),
        ({**SD, **V, "skip_prk_steps": True, **TRAILING}, {}),
        ({**COSINE, "set_alpha_to_one": True}, {}),
    ],
    "SASolverScheduler": [
        ({}, {}),
        ({**SD, **V, **KARRAS, "predictor_order": 3, "corrector_order": 4}, {}),
        ({**SD, "algorithm_type": "noise_prediction", **TRAILING}, {}),
        ({**SD, "predictor_order": 3, "corrector_order": 3, "tau_func": lambda t: 0.0}, {}),
    ],
    "SCMScheduler": [({}, {}), ({"sigma_data": 1.0}, {}), ({}, {"max_timesteps": 1.5}), ({"num_train_timesteps": 500}, {})],
    "TCDScheduler": [*LCM[:3], (LCM[3][0], {"eta": 1.0})],
    "UnCLIPScheduler": [({}, {}), ({"clip_sample": False}, {}), (X0, {}), ({"clip_sample_range": 2.0}, {})],
    "UniPCMultistepScheduler": [
        *MULTISTEP[:4],
        ({**SD, "solver_order": 3, "solver_type": "bh1", "disable_corrector": [0, 1], "final_sigmas_type": "sigma_min"}, {}),
        ({**SD, "predict_x0": False, "final_sigmas_type": "sigma_min"}, {}),
        ({**SD, **BETA, "final_sigmas_type": "sigma_min"}, {}),
    ],
}

SLOW = ("KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LMSDiscreteScheduler")  # theirs: one number of steps each


class Path:
    """A Brownian path through given increments, in place of torchsde's."""

    def __init__(self, edges: np.ndarray, increments: list[np.ndarray]) -> None:
        steps = [np.sqrt(w) * e for w, e in zip(np.diff(edges), increments, strict=True)]
        self.edges, self.values = edges, np.cumsum([np.zeros(SHAPE), *steps], axis=0)

    def __call__(self, sigma: Any, following: Any) -> Any:
        low, high = (int(np.abs(self.edges - float(s)).argmin()) for s in (sigma, following))
        width = abs(self.edges[high] - self.edges[low])
        return torch.from_numpy((self.values[low] - self.values[high]) / np.sqrt(width))


def toy(rng: np.random.Generator, linear: bool) -> Callable[..., np.ndarray]:
    mix, shift = rng.normal(size=(3, 3)) / 2, rng.normal(size=(3, 1, 1)) / 2

    def network(sample: np.ndarray, timestep: np.ndarray, classes: np.ndarray | None = None) -> np.ndarray:
        time = np.cos(timestep / 300.0)[:, None, None, None]
        mixed = np.einsum("oc,nchw->nohw", mix, sample)
        return mixed * time if linear else np.tanh(mixed + shift) + 0.3 * time

    return network


def make(name: str, config: dict[str, Any]) -> Any:
    kind = getattr(diffusers, name, None) or getattr(diffusers.schedulers, name, None)
    if kind is None:
        pytest.skip(f"diffusers {diffusers.__version__} has no {name}")
    try:
        return kind(**config)
    except ImportError:
        pytest.skip(f"{name} needs torchsde")


def theirs(
    scheduler: Any,
    found: ImportedScheduler,
    options: dict[str, Any],
    network: Any,
    x: np.ndarray,
    noise: list[np.ndarray],
    patch: Any,
) -> np.ndarray:
    """diffusers' loop as its pipelines have it, unpatched but for the source of its noise."""
    drawn, module = iter(noise), sys.modules[type(scheduler).__module__]

    def draw(*args: Any, **kwargs: Any) -> Any:
        return torch.from_numpy(next(drawn).copy())

    for owner, attribute in ((module, "randn_tensor"), (torch, "randn"), (torch, "randn_like")):
        if hasattr(owner, attribute):
            patch.setattr(owner, attribute, draw)
    if found.trace.edges is not None:
        patch.setattr(module, "BrownianTreeNoiseSampler", lambda *args, **kwargs: Path(found.trace.edges, noise))
    name, rows = type(scheduler).__name__, found.program.rows
    sample = torch.from_numpy(x * float(getattr(scheduler, "init_noise_sigma", 1.0)))
    times, old = list(scheduler.timesteps)[: len(rows)], None
    for i, t in enumerate(times):
        scaled = scheduler.scale_model_input(sample, t) if hasattr(scheduler, "scale_model_input") else sample
        output = torch.from_numpy(network(scaled.double().numpy(), np.full(len(x), float(t))))
        if name == "CogVideoXDPMScheduler":
            sample, old = scheduler.step(output, old, t, times[i - 1] if i else None, sample, return_dict=False, **options)
        elif name == "UnCLIPScheduler":
            sample = scheduler.step(output, t, sample, prev_timestep=times[i + 1] if i + 1 < len(times) else None).prev_sample
        else:
            t = t[None] if name == "DDPMWuerstchenScheduler" else t
            sample = scheduler.step(output, t, sample, return_dict=False, **options)[0]
    return sample.double().numpy()


@pytest.mark.parametrize("name", CASES)
def test_import_is_the_scheduler(name: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(CASES[name]) >= 4
    for number, (config, options) in enumerate(CASES[name]):
        for steps in STEPS:
            if not possible(name, config, steps) or (name in SLOW and steps != STEPS[number % 3]):
                continue
            scheduler = make(name, config)
            given = dict(options)
            if name == "SCMScheduler":
                given |= {"intermediate_timesteps": 1.3 if steps == 2 else None}
            found = import_scheduler(scheduler, steps, **given)
            of_step = {k: v for k, v in given.items() if k in ("eta", "s_churn", "s_tmin", "s_noise", "order", *CLIPPED)}
            scheduler.set_timesteps(steps, **{k: v for k, v in given.items() if k not in of_step})
            network = toy(rng, linear=(number + steps) % 2 == 0)
            x, noise = rng.normal(size=SHAPE), [rng.normal(size=SHAPE) for _ in found.trace.drawn]
            ours = run(found.program, network, x, draw=noise_function(found.draws, noise))
            with monkeypatch.context() as patch:
                wanted = theirs(scheduler, found, of_step, network, x, noise, patch)
            error = np.abs(ours - wanted).max() / np.abs(wanted).max()
            assert error < TOLERANCE, f"{name} {config} {options} {steps} steps"
            print(
                f"{name:36s}{steps:3d} steps {found.program.nfe:3d} evaluations {found.program.slots} slots {found.residual:.1e}"
            )


def possible(name: str, config: dict[str, Any], steps: int) -> bool:
    """Whether diffusers itself can do it."""
    if name == "PNDMScheduler" and not config.get("skip_prk_steps"):
        return steps > 2
    return steps == 2 if name == "ConsistencyDecoderScheduler" else True
