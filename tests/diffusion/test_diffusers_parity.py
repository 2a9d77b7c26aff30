"""Programs against diffusers' own schedulers around the same networks, both in float64."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aigc_edge.diffusion import Program, build
from aigc_edge.diffusion.reference import run

torch = pytest.importorskip("torch", reason="diffusers' schedulers need torch")
diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: parity with it is not tested")

STEPS = [2, 5, 20]
SHAPE = (2, 3, 4)
SD = {"beta_start": 0.00085, "beta_end": 0.012}
SD_THEIRS = SD | {"beta_schedule": "scaled_linear"}
SD_OURS = SD | {"betas": "scaled_linear"}
PREDICTION = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
TOLERANCE = 1e-11  # relative to the largest number; 1e-13 is what was seen at most
# diffusers 0.42 against NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch, widen: Callable[[Any], None]) -> Callable[..., Any]:
    """Makes a scheduler that works in float64 and draws its noise from `noise` (a list that is used up), if any."""

    def make(name: str, noise: list[np.ndarray] | None = None, **config: Any) -> Any:
        kind = getattr(diffusers, name)
        module = importlib.import_module(kind.__module__)
        widen(kind)
        if hasattr(module, "randn_tensor"):
            drawn = iter(noise or [])
            monkeypatch.setattr(module, "randn_tensor", lambda *args, **kwargs: torch.from_numpy(next(drawn)))
        return kind(**config)

    return make


@pytest.fixture(params=["linear", "nonlinear"])
def network(request: pytest.FixtureRequest, rng: np.random.Generator) -> Callable[..., np.ndarray]:
    mix, shift = rng.normal(size=(4, 4)) / 4, rng.normal(size=4) / 4

    def evaluate(sample: np.ndarray, timestep: np.ndarray, classes: np.ndarray | None = None) -> np.ndarray:
        time = np.cos(timestep / 300.0)[:, None, None]
        if request.param == "linear":
            return sample @ mix * time
        return np.tanh(sample @ mix + shift) + 0.3 * time

    return evaluate


def theirs(scheduler: Any, network: Callable[..., np.ndarray], x: np.ndarray, **step: Any) -> np.ndarray:
    """diffusers' usual loop."""
    sample = torch.from_numpy(x)
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(sample, t) if hasattr(scheduler, "scale_model_input") else sample
        output = network(scaled.numpy(), np.full(len(x), float(t)))
        sample = scheduler.step(torch.from_numpy(output), t, sample, return_dict=False, **step)[0]
    assert sample.dtype == torch.float64
    return sample.numpy()


def assert_close(ours: np.ndarray, others: np.ndarray) -> None:
    assert np.abs(ours - others).max() < TOLERANCE * np.abs(others).max()


def fed(scheduler: Any, prediction: str, **more: Any) -> dict[str, Any]:
    """A schedule of the scheduler's own sigmas and timesteps, each once."""
    sigmas, times = scheduler.sigmas.tolist(), scheduler.timesteps.tolist()
    keep = [i for i in range(len(sigmas)) if i == 0 or sigmas[i] != sigmas[i - 1]]
    return {
        "prediction": prediction,
        "kind": "table",
        "sigmas": [sigmas[i] for i in keep],
        "timesteps": [times[i] for i in keep if i < len(times)],
    } | more


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_euler(scheduler: Any, network: Any, rng: np.random.Generator, spacing: str, prediction: str, steps: int) -> None:
    other = scheduler("EulerDiscreteScheduler", prediction_type=prediction, timestep_spacing=spacing, steps_offset=1, **SD_THEIRS)
    other.set_timesteps(steps)
    x = rng.normal(size=SHAPE)
    wanted = theirs(other, network, x * float(other.init_noise_sigma))
    program = build(fed(other, PREDICTION[prediction], init_scale=float(other.init_noise_sigma)), "euler", steps)
    assert_close(run(program, network, x), wanted)
    if (
        spacing != "linspace"
    ):  # whole timesteps: our own schedule is the same, linspace interpolates ln(sigma) where they do sigma
        ours = build(
            SD_OURS | {"prediction": PREDICTION[prediction], "spacing": spacing, "steps_offset": int(spacing == "leading")},
            "euler",
            steps,
        )
        assert_close(run(ours, network, x * (float(other.init_noise_sigma) / ours.init_scale)), wanted)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("solver", "name"), [("euler", "EulerDiscreteScheduler"), ("heun", "HeunDiscreteScheduler")])
@pytest.mark.parametrize("spacing", ["karras", "exponential"])
def test_euler_and_heun_on_karras_and_exponential_sigmas(
    scheduler: Any, network: Any, rng: np.random.Generator, spacing: str, solver: str, name: str, steps: int
) -> None:
    """Noise levels and interpolated timesteps of our own schedule, too."""
    other = scheduler(name, timestep_spacing="linspace", **{f"use_{spacing}_sigmas": True}, **SD_THEIRS)
    other.set_timesteps(steps)
    x = rng.normal(size=SHAPE)
    ours = build(SD_OURS | {"prediction": "epsilon", "spacing": spacing}, solver, steps)
    wanted = theirs(other, network, x * ours.init_scale)
    assert_close(run(ours, network, x), wanted)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_heun(scheduler: Any, network: Any, rng: np.random.Generator, prediction: str, steps: int) -> None:
    other = scheduler("HeunDiscreteScheduler", prediction_type=prediction, **SD_THEIRS)
    other.set_timesteps(steps)
    program = build(fed(other, PREDICTION[prediction], init_scale=float(other.init_noise_sigma)), "heun", steps)
    assert program.nfe == len(other.timesteps)
    x = rng.normal(size=SHAPE)
    assert_close(run(program, network, x), theirs(other, network, x * float(other.init_noise_sigma)))


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_ddim(scheduler: Any, network: Any, rng: np.random.Generator, prediction: str, eta: float, steps: int) -> None:
    """In their coordinates x has variance 1, in ours x = x0 + sigma eps; the clean sample is the same."""
    noise = [rng.normal(size=SHAPE) for _ in range(steps)]
    other = scheduler("DDIMScheduler", noise, prediction_type=prediction, clip_sample=False, steps_offset=1, **SD_THEIRS)
    other.set_timesteps(steps)
    x = rng.normal(size=SHAPE)
    wanted = theirs(other, network, x, eta=eta)
    ours = build(
        SD_OURS | {"prediction": PREDICTION[prediction], "spacing": "leading", "steps_offset": 1}, "ddim", steps, eta=eta
    )
    assert_close(run(ours, network, x, draw=lambda seeds, index, shape: noise[index // 2 - 1]), wanted)


@pytest.mark.parametrize("steps", STEPS)
def test_ddim_clipped_and_ending_at_the_first_timestep(
    scheduler: Any, network: Any, rng: np.random.Generator, steps: int
) -> None:
    other = scheduler(
        "DDIMScheduler", clip_sample=True, clip_sample_range=0.8, set_alpha_to_one=False, steps_offset=1, **SD_THEIRS
    )
    other.set_timesteps(steps)
    x = rng.normal(size=SHAPE)
    wanted = theirs(other, network, x, use_clipped_model_output=True)
    schedule = SD_OURS | {"prediction": "epsilon", "spacing": "leading", "steps_offset": 1, "final_sigma": "sigma_min"}
    ours = build(schedule, "ddim", steps, clip=(-0.8, 0.8))
    assert_close(run(ours, network, x) * float(other.alphas_cumprod[0]) ** 0.5, wanted)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_euler_ancestral(scheduler: Any, network: Any, rng: np.random.Generator, prediction: str, steps: int) -> None:
    noise = [rng.normal(size=SHAPE) for _ in range(steps)]
    other = scheduler(
        "EulerAncestralDiscreteScheduler",
        noise,
        prediction_type=prediction,
        timestep_spacing="leading",
        steps_offset=1,
        **SD_THEIRS,
    )
    other.set_timesteps(steps)
    x = rng.normal(size=SHAPE)
    schedule = SD_OURS | {"prediction": PREDICTION[prediction], "spacing": "leading", "steps_offset": 1}
    ours = build(schedule, "euler_ancestral", steps)
    wanted = theirs(other, network, x * ours.init_scale)
    assert_close(run(ours, network, x, draw=lambda seeds, index, shape: noise[index // 2 - 1]), wanted)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("karras", [False, True])
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("lower_order_final", [False, True])
def test_dpmpp_2m(
    scheduler: Any, network: Any, rng: np.random.Generator, lower_order_final: bool, final: str, karras: bool, steps: int
) -> None:
    """DPM-Solver++ multistep of order 2; theirs lowers the order at the end only below 15 steps."""
    other = scheduler(
        "DPMSolverMultistepScheduler",
        algorithm_type="dpmsolver++",
        solver_order=2,
        use_karras_sigmas=karras,
        final_sigmas_type=final,
        lower_order_final=lower_order_final,
        timestep_spacing="trailing",
        **SD_THEIRS,
    )
    other.set_timesteps(steps)
    x = rng.normal(size=SHAPE)
    wanted = theirs(other, network, x)
    first, last = float(other.sigmas[0]), float(other.sigmas[-1])
    schedule = fed(other, "epsilon", init_scale=math.hypot(1, first))
    count = (
        len(schedule["sigmas"]) - 1
    )  # with Karras sigmas their last step to sigma_min stands still, so its order does not matter
    lower = lower_order_final and steps < 15 and count == steps
    program = build(schedule, "dpmpp_2m", count, lower_order_final=lower)
    assert_close(run(program, network, x) / math.hypot(1, last), wanted)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_dpmpp_2m_on_our_own_karras_schedule(
    scheduler: Any, network: Any, rng: np.random.Generator, prediction: str, steps: int
) -> None:
    """Their timesteps are rounded, ours are not: the network is asked for whole ones."""
    other = scheduler("DPMSolverMultistepScheduler", use_karras_sigmas=True, prediction_type=prediction, **SD_THEIRS)
    other.set_timesteps(steps)
    x = rng.normal(size=SHAPE)
    ours = build(SD_OURS | {"prediction": PREDICTION[prediction], "spacing": "karras"}, "dpmpp_2m", steps)

    def rounded(sample: np.ndarray, timestep: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
        return network(sample, np.round(timestep))

    assert_close(run(ours, rounded, x), theirs(other, network, x))


EDM_SOLVERS = {"euler": "EDMEulerScheduler", "dpmpp_2m": "EDMDPMSolverMultistepScheduler"}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("solver", EDM_SOLVERS)
@pytest.mark.parametrize("spacing", ["karras", "exponential"])
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_edm(scheduler: Any, network: Any, rng: np.random.Generator, final: str, spacing: str, solver: str, steps: int) -> None:
    more = {} if solver == "euler" else {"lower_order_final": False}
    other = scheduler(EDM_SOLVERS[solver], sigma_data=0.6, sigma_schedule=spacing, final_sigmas_type=final, **more)
    other.set_timesteps(steps)
    x = rng.normal(size=SHAPE)
    schedule = {"prediction": "edm", "sigma_data": 0.6, "spacing": spacing, "final_sigma": final}
    count = steps if final == "zero" else steps - 1  # their last step from sigma_min to sigma_min stands still
    program = build(schedule, solver, count)
    assert_close(run(program, network, x), theirs(other, network, x * program.init_scale))


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EulerDiscreteScheduler"])
def test_churn(scheduler: Any, rng: np.random.Generator, name: str, steps: int) -> None:
    """Their network is not told of the noisier level, so the network here is one that looks at neither its input nor its time."""
    noise = [rng.normal(size=SHAPE) for _ in range(steps)]
    given: dict[str, Any] = {"s_churn": 1.5, "s_tmin": 0.05, "s_tmax": 10.0, "s_noise": 1.01}
    constant = rng.normal(size=SHAPE)
    other = scheduler(name, noise, **({} if name == "EDMEulerScheduler" else SD_THEIRS))
    other.set_timesteps(steps)
    prediction = "edm" if name == "EDMEulerScheduler" else "epsilon"
    schedule = fed(other, prediction, init_scale=float(other.init_noise_sigma))
    program: Program = build(schedule, "euler", steps, **given)
    drawn = iter(noise)
    x = rng.normal(size=SHAPE)
    wanted = theirs(other, lambda sample, t: constant, x * program.init_scale, **given)
    ours = run(program, lambda sample, t, classes: constant, x, draw=lambda seeds, index, shape: next(drawn))
    assert_close(ours, wanted)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(
    ("solver", "name"), [("euler", "FlowMatchEulerDiscreteScheduler"), ("heun", "FlowMatchHeunDiscreteScheduler")]
)
def test_flow(scheduler: Any, network: Any, rng: np.random.Generator, solver: str, name: str, shift: float, steps: int) -> None:
    """Their default levels end at 1/1000 before 0, so ours are fed with them."""
    other = scheduler(name, shift=shift)
    other.set_timesteps(steps)
    schedule = fed(other, "flow")
    schedule["alphas"] = (1 - np.array(schedule["sigmas"])).tolist()
    program = build(schedule, solver, steps)
    x = rng.normal(size=SHAPE)
    assert_close(run(program, network, x), theirs(other, network, x))


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_on_our_own_schedule(scheduler: Any, network: Any, rng: np.random.Generator, shift: float, steps: int) -> None:
    """As pipelines of flow models call theirs: sigmas from 1 to 1/steps, shifted by the scheduler, timesteps in thousandths."""
    other = scheduler("FlowMatchEulerDiscreteScheduler", shift=shift)
    other.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
    program = build({"prediction": "flow", "shift": shift, "timestep_scale": 1000}, "euler", steps)
    x = rng.normal(size=SHAPE)
    assert_close(run(program, network, x), theirs(other, network, x))


@pytest.mark.parametrize("given", ["timesteps", "sigmas"])
def test_given_lists(scheduler: Any, network: Any, rng: np.random.Generator, given: str) -> None:
    """As pipelines pass published lists (align your steps) to their schedulers."""
    values = {
        "timesteps": [999, 850, 736, 645, 545, 455, 343, 233, 124, 24],
        "sigmas": [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152],
    }[given]
    other = scheduler("EulerDiscreteScheduler", **SD_THEIRS)
    other.set_timesteps(**{given: values + [0.0] * (given == "sigmas")})
    program = build(SD_OURS | {"prediction": "epsilon", given: values}, "euler", 10)
    x = rng.normal(size=SHAPE) * program.init_scale
    assert_close(run(program, network, x / program.init_scale), theirs(other, network, x))
