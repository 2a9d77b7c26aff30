"""Imported programs that clip or threshold D, some going on with the unclipped output, against diffusers' loop in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from aigc_edge.diffusion import Program, from_diffusers
from aigc_edge.diffusion.importer import import_scheduler
from aigc_edge.diffusion.importer.draws import noise_function
from aigc_edge.diffusion.reference import run
from aigc_edge.errors import ProgramError

torch = pytest.importorskip("torch", reason="diffusers' schedulers need torch")
diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: importing from it is not tested")
pytestmark = [pytest.mark.filterwarnings("ignore")]

SHAPE = (2, 3, 4, 5)
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
V, X0 = ({"prediction_type": kind} for kind in ("v_prediction", "sample"))
DYNAMIC = {"thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": 3.0}
OPEN = {"clip_sample": False}
SIGMA_MIN = {"final_sigmas_type": "sigma_min"}
STEPS = (2, 5, 20)

CLIPPED: list[tuple[str, dict[str, Any], dict[str, Any], tuple[int, ...]]] = [
    *((name, config, options, STEPS)
      for name in ("DDIMScheduler", "DDIMParallelScheduler")
      for config, options in (({}, {}), ({**SD, **V}, {}), (X0, {"eta": 0.7}), ({**SD, "clip_sample_range": 0.6}, {"eta": 1.0}))),
    ("DDIMInverseScheduler", {}, {}, STEPS),
    ("DDIMInverseScheduler", {**SD, **V}, {}, STEPS),
    ("DDIMInverseScheduler", {**SD, "clip_sample_range": 0.5, "timestep_spacing": "trailing"}, {}, STEPS),
]  # fmt: skip
THRESHOLDED: list[tuple[str, dict[str, Any], dict[str, Any], tuple[int, ...]]] = [
    ("DDIMScheduler", {**OPEN, **SD}, {}, STEPS),
    ("DDIMScheduler", {**OPEN, **V}, {"eta": 0.5, "use_clipped_model_output": True}, (5,)),
    ("DDIMParallelScheduler", {**OPEN, **SD, **X0}, {}, (5,)),
    ("DDPMScheduler", {**OPEN, **SD}, {}, STEPS),
    ("DDPMParallelScheduler", {**OPEN, **V}, {}, (5,)),
    ("DEISMultistepScheduler", SD, {}, (5,)),
    ("DPMSolverMultistepScheduler", SD, {}, STEPS),
    ("DPMSolverMultistepScheduler", {**SD, "algorithm_type": "dpmsolver", **SIGMA_MIN}, {}, (5,)),
    ("DPMSolverMultistepScheduler", {**SD, **V, "algorithm_type": "sde-dpmsolver++", "solver_order": 3}, {}, (5,)),
    ("DPMSolverMultistepInverseScheduler", SD, {}, (5,)),
    ("DPMSolverSinglestepScheduler", {**SD, "use_karras_sigmas": True}, {}, (6,)),
    ("EDMDPMSolverMultistepScheduler", {"sigma_data": 3.0}, {}, (5,)),
    ("LCMScheduler", SD, {}, (4,)),
    ("SASolverScheduler", SD, {}, (5,)),
    ("UniPCMultistepScheduler", SD, {}, STEPS),
    ("UniPCMultistepScheduler", {**SD, **V, "solver_order": 3}, {}, (5,)),
]


def network(sample: np.ndarray, timestep: np.ndarray, classes: np.ndarray | None = None) -> np.ndarray:
    return 2.5 * np.tanh(0.7 * np.roll(sample, 1, -1) - 0.4 * sample) + 0.3 * np.cos(timestep / 300.0)[:, None, None, None]


def theirs(scheduler: Any, steps: int, options: dict[str, Any], x: np.ndarray) -> np.ndarray:
    scheduler.set_timesteps(steps)
    sample = torch.from_numpy(x * float(scheduler.init_noise_sigma))
    for t in scheduler.timesteps:
        output = network(scheduler.scale_model_input(sample, t).numpy(), np.full(len(x), float(t)))
        sample = scheduler.step(torch.from_numpy(output), t, sample, return_dict=False, **options)[0]
    return sample.numpy()


def compare(
    widen: Any, patch: Any, name: str, config: dict[str, Any], options: dict[str, Any], steps: int
) -> tuple[Program, Any, np.ndarray]:
    """The program, what runs a changed one with the same noise, and its own result, which is diffusers'."""
    kind, rng = getattr(diffusers, name), np.random.default_rng()
    widen(kind)
    found = import_scheduler(kind(**config), steps, **options)
    assert found.residual < 1e-11
    x, noise = rng.normal(size=SHAPE), [rng.normal(size=SHAPE) for _ in found.trace.drawn]
    drawn = iter(noise)
    with patch.context() as within:
        within.setattr(f"{kind.__module__}.randn_tensor", lambda *args, **kwargs: torch.from_numpy(next(drawn)), raising=False)
        wanted = theirs(kind(**config), steps, options, x)

    def ours(program: Program) -> np.ndarray:
        return run(program, network, x, draw=noise_function(found.draws, noise))

    result = ours(found.program)
    assert np.abs(result - wanted).max() < 1e-10 * np.abs(wanted).max(), (name, config, steps)
    again = Program.from_json(found.program.to_json())
    assert again.rows == found.program.rows
    return found.program, ours, result


def differ(ours: Any, program: Program, result: np.ndarray, change: Any) -> bool:
    changed = ours(replace(program, rows=tuple(change(row) for row in program.rows)))
    return bool(np.abs(changed - result).max() > 1e-4 * np.abs(result).max())


@pytest.mark.parametrize(("name", "config", "options", "numbers"), CLIPPED)
def test_a_clipped_image_with_the_unclipped_output(
    widen: Any, monkeypatch: pytest.MonkeyPatch,
    name: str, config: dict[str, Any], options: dict[str, Any], numbers: tuple[int, ...],
) -> None:  # fmt: skip
    for steps in numbers:
        program, ours, result = compare(widen, monkeypatch, name, config, options, steps)
        limit = config.get("clip_sample_range", 1.0)
        assert program.slots == 1
        assert all(row.clip == (-limit, limit) for row in program.rows)
        assert all(row.after_output is not None for row in program.rows[:-1])
        assert differ(ours, program, result, lambda row: replace(row, clip=None))


@pytest.mark.parametrize(("name", "config", "options", "numbers"), THRESHOLDED)
def test_dynamic_thresholding(
    widen: Any, monkeypatch: pytest.MonkeyPatch,
    name: str, config: dict[str, Any], options: dict[str, Any], numbers: tuple[int, ...],
) -> None:  # fmt: skip
    for steps in numbers:
        program, ours, result = compare(widen, monkeypatch, name, config | DYNAMIC, options, steps)
        assert all(row.threshold == (0.8, 3.0) for row in program.rows)
        assert differ(ours, program, result, lambda row: replace(row, threshold=(0.1, 3.0)))
        assert differ(ours, program, result, lambda row: replace(row, threshold=(0.8, 1.0)))


def test_the_shortest_state_is_kept() -> None:
    """The history is of what was clipped, and no slot is spent on both."""
    clipped = from_diffusers(diffusers.DPMSolverMultistepScheduler(**SD, **DYNAMIC), 8)
    plain = from_diffusers(diffusers.DPMSolverMultistepScheduler(**SD), 8)
    assert clipped.slots == plain.slots == 2
    assert clipped.rows[2].after[1] == plain.rows[2].after[1] == (0.0, 0.0, 1.0)
    assert all(row.after_output is None for row in [*clipped.rows, *plain.rows])


class Twice:
    """A scheduler that clips two things in a step."""

    config: ClassVar[dict[str, Any]] = {}

    def set_timesteps(self, num_inference_steps: int) -> None:
        self.timesteps = torch.linspace(1, 0.1, num_inference_steps)

    def step(self, model_output: Any, timestep: Any, sample: Any) -> Any:
        return (sample.clamp(-1, 1) - 0.1 * model_output.clamp(-1, 1),)


class Mixed(Twice):
    """A scheduler that clips a sum with earlier outputs."""

    def step(self, model_output: Any, timestep: Any, sample: Any) -> Any:
        self.last = 0.5 * getattr(self, "last", 0.0) + model_output
        return (sample - 0.1 * (sample - self.last).clamp(-1, 1),)


def test_what_no_row_clips_is_refused() -> None:
    with pytest.raises(ProgramError, match="clips more than once in a step"):
        from_diffusers(Twice(), 4)
    with pytest.raises(ProgramError, match="clips something other than the denoised sample"):
        from_diffusers(Mixed(), 4)
