"""Imported programs that start at an image, against diffusers' own image-to-image loop, in float64."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import numpy as np
import pytest

from aigc_edge.diffusion import Program, from_diffusers, truncate
from aigc_edge.diffusion.importer import import_scheduler
from aigc_edge.diffusion.importer.draws import noise_function
from aigc_edge.diffusion.reference import run
from aigc_edge.errors import ProgramError

torch = pytest.importorskip("torch", reason="diffusers' schedulers need torch")
diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: importing from it is not tested")
pytestmark = [pytest.mark.filterwarnings("ignore")]

SHAPE = (2, 3, 4, 2)
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("DDIMScheduler", {**SD, "clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False}, {}),
    ("DDIMScheduler", {**SD, "clip_sample": False, "timestep_spacing": "trailing"}, {"eta": 0.5}),
    ("EulerDiscreteScheduler", {**SD, "timestep_spacing": "leading", "steps_offset": 1}, {}),
    ("EulerDiscreteScheduler", {**SD, "use_karras_sigmas": True, "prediction_type": "v_prediction"}, {"s_churn": 1.0}),
    ("EulerAncestralDiscreteScheduler", SD, {}),
    ("HeunDiscreteScheduler", SD, {}),
    ("LMSDiscreteScheduler", SD, {}),
    ("DPMSolverMultistepScheduler", {**SD, "use_karras_sigmas": True}, {}),
    ("DPMSolverMultistepScheduler", {**SD, "algorithm_type": "sde-dpmsolver++", "solver_order": 3}, {}),
    ("UniPCMultistepScheduler", SD, {}),
    ("UniPCMultistepScheduler", {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}, {}),
    ("DEISMultistepScheduler", SD, {}),
    ("PNDMScheduler", {**SD, "skip_prk_steps": True, "steps_offset": 1}, {}),
    ("LCMScheduler", SD, {}),
    ("EDMEulerScheduler", {}, {}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, {}),
    ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, {"mu": 0.8}),
]


def network(sample: np.ndarray, timestep: np.ndarray, classes: np.ndarray | None = None) -> np.ndarray:
    return np.tanh(0.7 * np.roll(sample, 1, -1) - 0.2 * sample) + 0.3 * np.cos(timestep / 300.0)[:, None, None, None]


def theirs(
    scheduler: Any, steps: int, strength: float, options: dict[str, Any], image: np.ndarray, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The noised image and the result, by the lines of diffusers' image-to-image pipelines."""
    setter = {"mu": options["mu"]} if "mu" in options else {}
    if type(scheduler).__name__ == "LCMScheduler":  # its own pipeline leaves the strength to it
        setter["strength"] = strength
    scheduler.set_timesteps(steps, **setter)
    begin = 0 if "strength" in setter else max(steps - min(int(steps * strength), steps), 0) * scheduler.order
    timesteps = scheduler.timesteps[begin:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    first, given = timesteps[:1].repeat(len(image)), (torch.from_numpy(image), torch.from_numpy(start))
    if hasattr(scheduler, "scale_noise"):
        sample = scheduler.scale_noise(given[0], first, given[1])
    else:
        sample = scheduler.add_noise(*given, first)
    noised, of_step = sample.numpy(), {k: v for k, v in options.items() if k != "mu"}
    for t in timesteps:
        scaled = scheduler.scale_model_input(sample, t) if hasattr(scheduler, "scale_model_input") else sample
        output = torch.from_numpy(network(scaled.numpy(), np.full(len(image), float(t))))
        sample = scheduler.step(output, t, sample, return_dict=False, **of_step)[0]
    return noised, sample.numpy()


@pytest.mark.parametrize("strength", [0.3, 0.75])
@pytest.mark.parametrize(("name", "config", "options"), CASES)
def test_same_as_the_pipelines(
    widen: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch,
    name: str, config: dict[str, Any], options: dict[str, Any], strength: float,
) -> None:  # fmt: skip
    steps, kind = 8, getattr(diffusers, name)
    widen(kind)
    found = import_scheduler(kind(**config), steps, strength=strength, **options)
    image, start = rng.normal(size=SHAPE), rng.normal(size=SHAPE)
    noise = [rng.normal(size=SHAPE) for _ in found.trace.drawn]
    drawn = iter(noise)
    with monkeypatch.context() as patch:
        patch.setattr(f"{kind.__module__}.randn_tensor", lambda *args, **kwargs: torch.from_numpy(next(drawn)), raising=False)
        noised, wanted = theirs(kind(**config), steps, strength, options, image, start)
    latents = found.program.add_noise(image, start)
    assert np.abs(latents * found.program.init_scale - noised).max() < 1e-12 * np.abs(noised).max()
    ours = run(found.program, network, latents, draw=noise_function(found.draws, noise))
    assert np.abs(ours - wanted).max() < 1e-11 * np.abs(wanted).max()
    whole = from_diffusers(kind(**config), steps, guidance_scale=2.0, name="mine", timestep_scale=0.5, **options)
    again = truncate(Program.from_json(json.loads(json.dumps(whole.to_json()))), strength)
    assert (again.name, again.guidance_scale, again.nfe) == ("mine", 2.0, found.program.nfe)
    assert again.meta["start"] == found.program.meta["start"]
    assert again.rows[-1].after == found.program.rows[-1].after
    assert [row.timestep for row in again.rows] == [row.timestep / 2 for row in found.program.rows]
    assert truncate(again, 1.0).rows == whole.rows
    if name != "LCMScheduler":
        assert [row.sigma for row in again.rows] == [row.sigma for row in whole.rows[-again.nfe :]]


def test_a_multistep_method_begins_anew() -> None:
    whole = from_diffusers(diffusers.UniPCMultistepScheduler(**SD), 10)
    part = truncate(whole, 0.55)
    assert part.nfe == 5
    assert "start" not in whole.meta
    assert part.rows[0].after[0][1:-1] == (0.0,) * (part.slots - 1)
    assert whole.rows[5].after[0][1] != 0.0


class Mine(diffusers.EulerDiscreteScheduler):
    """A scheduler that diffusers does not know."""


class Silent:
    """A scheduler that cannot noise an image."""

    config: ClassVar[dict[str, Any]] = {}

    def set_timesteps(self, num_inference_steps: int) -> None:
        self.timesteps = torch.linspace(1, 0.1, num_inference_steps)

    def step(self, model_output: Any, timestep: Any, sample: Any) -> Any:
        return (sample - 0.1 * model_output,)


def test_refusals() -> None:
    advice = r"call from_diffusers\(scheduler, steps, strength=0.5\)"
    table = diffusers.EulerDiscreteScheduler(trained_betas=np.linspace(1e-4, 0.02, 1000).tolist())
    with pytest.raises(ProgramError, match=f"does not hold its scheduler's trained_betas: {advice}"):
        truncate(from_diffusers(table, 4), 0.5)
    table.register_to_config(trained_betas=np.linspace(1e-4, 0.02, 1000))
    with pytest.raises(ProgramError, match="does not hold its scheduler's trained_betas"):
        truncate(from_diffusers(table, 4), 0.5)
    with pytest.raises(ProgramError, match=f"does not hold its scheduler's class: {advice}"):
        truncate(from_diffusers(Mine(), 4), 0.5)
    shifted = diffusers.FlowMatchEulerDiscreteScheduler()
    shifted.set_shift(3.0)
    with pytest.raises(ProgramError, match=f"other timesteps than its scheduler's config gives: {advice}"):
        truncate(from_diffusers(shifted, 4), 0.5)
    whole = from_diffusers(diffusers.EulerDiscreteScheduler(), 4)
    old = Program.from_json(whole.to_json() | {"meta": {"source": "diffusers"}})
    with pytest.raises(ProgramError, match=f"does not hold its scheduler's config: {advice}"):
        truncate(old, 0.5)
    gone = Program.from_json(whole.to_json() | {"meta": whole.to_json()["meta"] | {"solver": "GoneScheduler"}})
    with pytest.raises(ProgramError, match="has no GoneScheduler"):
        truncate(gone, 0.5)
    with pytest.raises(ProgramError, match=r"strength 0\.2 of 4 steps leaves none"):
        truncate(whole, 0.2)
    for strength in (-0.1, 1.2, float("nan"), "half"):
        with pytest.raises(ProgramError, match="strength must be"):
            from_diffusers(diffusers.EulerDiscreteScheduler(), 4, strength=strength)
    with pytest.raises(ProgramError, match="Silent cannot add noise to an image"):
        from_diffusers(Silent(), 4, strength=0.5)
