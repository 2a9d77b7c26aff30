"""The training schedule read from a folder's scheduler visits what the scheduler itself visits, and says the network the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest

from aigc_edge.diffusion import build, from_diffusers, resolve, sample
from aigc_edge.errors import AigcEdgeError
from aigc_edge.sources.diffusers.folder import Folder
from aigc_edge.sources.diffusers.schedules import clip_of, dynamic_shift, is_distilled, schedule_of, scheduler_of

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
EULER = diffusers.EulerDiscreteScheduler


@pytest.mark.parametrize(
    "scheduler",
    [
        EULER(**SD, timestep_spacing="linspace"),
        EULER(**SD, timestep_spacing="leading", steps_offset=1),
        EULER(**SD, timestep_spacing="trailing", prediction_type="v_prediction"),
        EULER(**SD, timestep_spacing="linspace", use_karras_sigmas=True),
        EULER(**SD, timestep_spacing="linspace", use_exponential_sigmas=True),
        EULER(beta_schedule="linear", prediction_type="sample"),
        diffusers.EulerAncestralDiscreteScheduler(**SD, timestep_spacing="trailing"),
        diffusers.EDMEulerScheduler(),
        diffusers.EDMEulerScheduler(sigma_schedule="exponential", sigma_max=60.0, sigma_data=0.4),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
@pytest.mark.parametrize("steps", [7, 25])
def test_same_noise_levels_and_timesteps(scheduler: Any, steps: int) -> None:
    schedule = schedule_of(scheduler)
    assert schedule is not None
    found, _ = resolve(schedule)
    levels = found.levels(steps)
    scheduler.set_timesteps(steps)
    sigmas = [level.sigma / level.alpha for level in levels]
    np.testing.assert_allclose(sigmas, scheduler.sigmas.numpy(), rtol=2e-4, atol=1e-6)
    times = [found.timestep(level) for level in levels[:-1]]
    np.testing.assert_allclose(times, scheduler.timesteps.numpy(), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_ddim_is_the_same_program(betas: str) -> None:
    scheduler = diffusers.DDIMScheduler(beta_schedule=betas, clip_sample=False, steps_offset=1)
    schedule = schedule_of(scheduler)
    assert schedule is not None
    own, built = from_diffusers(scheduler, 9), build(schedule, "ddim", 9)
    latents = np.random.default_rng(0).standard_normal((1, 4, 3, 3)).astype(np.float32)

    def network(sample: np.ndarray, timestep: np.ndarray) -> np.ndarray:
        return np.tanh(sample) * np.cos(timestep[:, None, None, None] / 300)

    np.testing.assert_allclose(sample(built, network, latents), sample(own, network, latents), rtol=1e-3, atol=1e-3)


def test_flow_shift_by_size_is_a_shift() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
    found = dynamic_shift(scheduler, 1024, 1.15)
    assert found is not None
    mu, shift = found
    steps = 11
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    schedule = schedule_of(scheduler, shift, 1000.0)
    assert schedule is not None
    made, _ = resolve(schedule)
    levels = made.levels(steps)
    np.testing.assert_allclose([level.sigma for level in levels], scheduler.sigmas.numpy(), atol=1e-6)
    np.testing.assert_allclose([made.timestep(level) for level in levels[:-1]], scheduler.timesteps.numpy(), rtol=1e-5)
    assert dynamic_shift(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), 1024, 1.15) is None


def test_what_is_not_ours_has_no_schedule() -> None:
    assert schedule_of(diffusers.DDPMScheduler(beta_schedule="sigmoid")) is None
    assert schedule_of(diffusers.DDPMScheduler(trained_betas=[0.1, 0.2])) is None
    assert schedule_of(diffusers.LCMScheduler()) is None
    assert schedule_of(diffusers.CMStochasticIterativeScheduler()) is None
    assert schedule_of(diffusers.DDIMScheduler(rescale_betas_zero_snr=True)) is None
    zero = schedule_of(diffusers.DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction"))
    assert zero is not None
    assert zero["zero_terminal_snr"] is True
    assert clip_of(diffusers.DDPMScheduler(clip_sample_range=2.0)) == (-2.0, 2.0)
    assert clip_of(EULER()) is None


def folder_of(path: Path, name: str, scheduler: Any) -> Folder:
    scheduler.save_pretrained(path / name / "scheduler")
    index = {"_class_name": "DDIMPipeline", "scheduler": ["diffusers", type(scheduler).__name__]}
    (path / name / "model_index.json").write_text(json.dumps(index))
    return Folder(path / name)


def test_the_scheduler_is_made_as_its_pipeline_makes_it(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a", diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", num_train_timesteps=500))
    made = scheduler_of(folder, kind="DDIMScheduler")
    assert isinstance(made, diffusers.DDIMScheduler)
    assert (made.config.beta_schedule, made.config.num_train_timesteps) == ("squaredcos_cap_v2", 500)
    changed = scheduler_of(folder, clip_sample=False, no_such_option=1)
    assert changed.config.clip_sample is False
    assert "no_such_option" not in changed.config
    assert not is_distilled(folder)
    assert is_distilled(folder_of(tmp_path, "b", diffusers.LCMScheduler()))
    assert is_distilled(folder_of(tmp_path, "sdxl-Turbo", EULER()))
    assert not is_distilled(folder_of(tmp_path, "hyperrealism", EULER()))


@pytest.mark.parametrize("kind", ["NoSuchScheduler", "UNet2DModel", "os"])
def test_a_scheduler_that_diffusers_lacks_is_refused(tmp_path: Path, kind: str) -> None:
    folder = folder_of(tmp_path, "a", EULER())
    folder.index["scheduler"][1] = kind
    with pytest.raises(AigcEdgeError, match=f"is a {kind}: it must be one of the installed diffusers' schedulers"):
        scheduler_of(folder)
