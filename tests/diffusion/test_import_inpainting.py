"""The noise level of imported rows: inpainting against diffusers' own loop, and networks that know what they ought to see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aigc_edge.diffusion import from_diffusers, sample, truncate
from aigc_edge.diffusion.importer import import_scheduler
from aigc_edge.diffusion.importer.draws import noise_function
from aigc_edge.diffusion.reference import run
from aigc_edge.errors import ProgramError

torch = pytest.importorskip("torch", reason="diffusers' schedulers need torch")
diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: importing from it is not tested")
pytestmark = [pytest.mark.filterwarnings("ignore")]

SHAPE = (2, 3, 4, 2)
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
V, X0, FLOW = ({"prediction_type": kind} for kind in ("v_prediction", "sample", "flow_prediction"))
TRAILING, ZERO_SNR = {"timestep_spacing": "trailing"}, {"rescale_betas_zero_snr": True}
INPAINTED: list[tuple[str, dict[str, Any], dict[str, Any], float]] = [
    ("DDIMScheduler", SD, {}, 1.0),
    ("DDIMScheduler", {**SD, "clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False}, {"eta": 0.6}, 0.6),
    ("EulerDiscreteScheduler", SD, {}, 1.0),
    ("EulerDiscreteScheduler", {**SD, **V, **ZERO_SNR, **TRAILING}, {}, 0.8),
    ("EulerAncestralDiscreteScheduler", SD, {}, 1.0),
    ("DPMSolverMultistepScheduler", {**SD, "use_karras_sigmas": True}, {}, 1.0),
    ("DPMSolverMultistepScheduler", {**SD, "algorithm_type": "sde-dpmsolver++"}, {}, 0.5),
    ("UniPCMultistepScheduler", SD, {}, 1.0),
    ("UniPCMultistepScheduler", {**FLOW, "use_flow_sigmas": True, "flow_shift": 3.0}, {}, 0.7),
    ("HeunDiscreteScheduler", SD, {}, 0.7),
    ("LMSDiscreteScheduler", SD, {}, 1.0),
    ("PNDMScheduler", {**SD, "skip_prk_steps": True}, {}, 1.0),
    ("DEISMultistepScheduler", SD, {}, 1.0),
    ("DPMSolverSinglestepScheduler", {**SD, "solver_order": 3, "lower_order_final": True}, {}, 1.0),
    ("SASolverScheduler", SD, {}, 1.0),
    ("EDMEulerScheduler", {}, {}, 1.0),
    ("LCMScheduler", SD, {}, 1.0),
    ("DDPMScheduler", {**SD, **X0}, {}, 1.0),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, {}, 1.0),
    ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, {"mu": 0.8}, 0.6),
]


def network(sample: Any, timestep: Any, classes: Any = None) -> Any:
    if isinstance(timestep, np.ndarray):
        time = np.cos(timestep / 300.0)[:, None, None, None]
        return np.tanh(0.7 * np.roll(sample, 1, -1) - 0.2 * sample) + 0.3 * time.astype(sample.dtype)
    return torch.tanh(0.7 * sample.roll(1, -1) - 0.2 * sample) + 0.3 * torch.cos(timestep / 300.0)


def blend(scheduler: Any, sample: Any, t: Any, mask: Any, known: Any, noise: Any) -> Any:
    times = t.reshape(1).repeat(len(known))
    if hasattr(scheduler, "scale_noise"):
        there = scheduler.scale_noise(known, times, noise)
    else:
        there = scheduler.add_noise(known, noise, times)
    return mask * sample + (1 - mask) * there


def theirs(scheduler: Any, steps: int, options: dict[str, Any], strength: float, x: Any, start: Any, given: Any) -> np.ndarray:
    """diffusers' loop that brings the known image to the level of each timestep, and ends with the image itself."""
    mask, known, noise = given
    scheduler.set_timesteps(steps, **({"mu": options["mu"]} if "mu" in options else {}))
    begin = (steps - int(steps * strength)) * getattr(scheduler, "order", 1)
    times = scheduler.timesteps[begin:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    sample = (
        x * float(getattr(scheduler, "init_noise_sigma", 1.0)) if strength == 1 else blend(scheduler, 0, times[0], 0 * x, *start)
    )
    of_step = {k: v for k, v in options.items() if k != "mu"}
    for t in times:
        sample = blend(scheduler, sample, t, mask, known, noise)
        scaled = scheduler.scale_model_input(sample, t) if hasattr(scheduler, "scale_model_input") else sample
        sample = scheduler.step(network(scaled, t), t, sample, return_dict=False, **of_step)[0]
    return (mask * sample + (1 - mask) * known).numpy()


@pytest.mark.parametrize(("name", "config", "options", "strength"), INPAINTED)
def test_inpainting_is_that_of_diffusers(
    widen: Any, monkeypatch: pytest.MonkeyPatch, name: str, config: dict[str, Any], options: dict[str, Any], strength: float
) -> None:
    steps, kind, rng = 8, getattr(diffusers, name), np.random.default_rng()
    widen(kind)
    found = import_scheduler(kind(**config), steps, strength=strength, **options)
    x, known, eps, image = (rng.normal(size=SHAPE) for _ in range(4))
    mask = rng.uniform(size=SHAPE).round(1)
    noise = [rng.normal(size=SHAPE) for _ in found.trace.drawn]
    drawn, own = iter(noise), [torch.from_numpy(values) for values in (x, mask, known, eps, image)]
    with monkeypatch.context() as patch:
        patch.setattr(f"{kind.__module__}.randn_tensor", lambda *args, **kwargs: torch.from_numpy(next(drawn)), raising=False)
        wanted = theirs(kind(**config), steps, options, strength, own[0], (own[4], own[0]), own[1:4])
    latents = x if strength == 1 else found.program.add_noise(image, x)
    draw, blended = noise_function(found.draws, noise), {"mask": mask, "known": known, "known_noise": eps}
    exact = run(found.program, network, latents, draw=draw, **blended)
    assert np.abs(exact - wanted).max() < 1e-9 * np.abs(wanted).max()
    np.testing.assert_allclose(exact[mask == 0], known[mask == 0], rtol=1e-12)
    unknown = run(found.program, network, latents, draw=draw)
    assert np.abs(unknown - wanted).max() > 1e-2
    if noise:
        ours = np.stack([draw(np.arange(2), number, SHAPE) for number in found.program.draws]).astype(np.float32)
    single = {k: v.astype(np.float32) for k, v in blended.items()}
    sampled = sample(found.program, network, latents.astype(np.float32), noise=ours if noise else "philox", **single)
    plain = run(found.program, network, latents, draw=draw, dtype=np.float32, **single)
    floor = 4 * np.finfo(np.float32).eps * np.abs(exact).max()
    assert np.abs(sampled - exact).max() <= 2 * np.abs(plain - exact).max() + floor


PERFECT: list[tuple[str, dict[str, Any]]] = [
    ("DDIMScheduler", {**SD, "clip_sample": False}),
    ("DPMSolverMultistepScheduler", {**SD, **V}),
    ("UniPCMultistepScheduler", SD),
    ("HeunDiscreteScheduler", SD),
    ("KDPM2DiscreteScheduler", SD),  # evaluates between its noise levels
    ("KDPM2DiscreteScheduler", {**SD, **V, "use_karras_sigmas": True}),
    ("LMSDiscreteScheduler", {**SD, **V}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    ("FlowMatchHeunDiscreteScheduler", {}),
    ("DDIMInverseScheduler", {**SD, "clip_sample_range": 100.0}),  # and this one after them
    ("UniPCMultistepScheduler", {**FLOW, "use_flow_sigmas": True, "flow_shift": 3.0}),
]


@pytest.mark.parametrize(("name", "config"), PERFECT)
def test_a_network_that_knows_the_image_sees_it_at_the_level_of_its_row(
    widen: Any, rng: np.random.Generator, name: str, config: dict[str, Any]
) -> None:
    """Where the output is that of one image and one noise, every deterministic solver stays on the line between them."""
    kind = getattr(diffusers, name)
    widen(kind)
    program = from_diffusers(kind(**config), 6)
    image, eps = rng.normal(size=(2, *SHAPE))
    prediction = config.get("prediction_type", "flow_prediction" if "Flow" in name else "epsilon")
    seen: list[float] = []

    def perfect(sample: np.ndarray, timestep: np.ndarray, classes: Any) -> np.ndarray:
        row = program.rows[len(seen)]
        assert row.level is not None
        (alpha, sigma), norm = row.level, float(np.hypot(*row.level))
        expected = row.c_in * (alpha * image + sigma * eps)
        seen.append(float(np.abs(sample - expected).max() / np.abs(expected).max()))
        if prediction == "v_prediction":
            return (alpha * eps - sigma * image) / norm
        return eps - image if prediction == "flow_prediction" else eps

    first = program.rows[0].level
    assert first is not None
    run(program, perfect, (first[0] * image + first[1] * eps) / program.init_scale)
    assert len(seen) == program.nfe
    assert max(seen) < 1e-8


def test_levels_of_a_part_are_those_of_the_whole() -> None:
    whole = from_diffusers(diffusers.EulerDiscreteScheduler(**SD), 10)
    part = truncate(whole, 0.4)
    assert [row.level for row in part.rows] == [row.level for row in whole.rows[-4:]]
    assert part.rows[0].level == (part.meta["start"]["alpha"], part.meta["start"]["sigma"])


def test_without_levels_a_mask_is_refused() -> None:
    program = from_diffusers(diffusers.IPNDMScheduler(), 4)
    assert all(row.level is None for row in program.rows)
    latents = np.zeros(SHAPE, np.float32)
    with pytest.raises(ProgramError, match="does not say the level of its rows, which a mask needs"):
        sample(program, network, latents, mask=latents, known=latents)
