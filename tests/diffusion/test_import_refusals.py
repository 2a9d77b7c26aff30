"""What cannot be a table is refused by name, and nothing that diffusers has is forgotten."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import numpy as np
import pytest

from aigc_edge.diffusion import from_diffusers
from aigc_edge.diffusion.importer import import_scheduler
from aigc_edge.diffusion.reference import run
from aigc_edge.errors import ProgramError

torch = pytest.importorskip("torch", reason="diffusers' schedulers need torch")
diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: importing from it is not tested")
pytestmark = [pytest.mark.filterwarnings("ignore")]

PROTEINA = {"schedule_mode": "log", "noise_mode": "1/t", "tsr_k": 1.0, "tsr_sigma": 1.0}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "AmusedScheduler": ({"mask_token_id": 1}, "discrete tokens"),
    "BlockRefinementScheduler": ({}, "discrete tokens"),
    "DiscreteDDIMScheduler": ({}, "discrete tokens"),
    "EntropyBoundScheduler": ({}, "discrete tokens"),
    "VQDiffusionScheduler": ({"num_vec_classes": 4}, "discrete tokens"),
    "ScoreSdeVeScheduler": ({}, "depends on the network's output"),
    "FlowMapEulerDiscreteScheduler": ({}, "two times"),
    "HeliosScheduler": ({}, "size of the sample"),
    "HeliosDMDScheduler": ({}, "size of the sample"),
    "PiflowScheduler": ({}, "policy"),
    "RePaintScheduler": ({}, "its step needs original_image, mask"),
    "RFD4ProteinaScheduler": (PROTEINA, "its step needs emit_mask"),
    "KarrasVeScheduler": ({}, "(no set_timesteps|its step needs sigma_hat)"),
}
# test_import_parity proves these
IMPORTED = """CMStochasticIterative CogVideoXDDIM CogVideoXDPM ConsistencyDecoder CosineDPMSolverMultistep DDIMInverse
DDIMParallel DDIM DDPMParallel DDPM DDPMWuerstchen DEISMultistep DPMSolverMultistepInverse DPMSolverMultistep
DPMSolverSDE DPMSolverSinglestep EDMDPMSolverMultistep EDMEuler EulerAncestralDiscrete EulerDiscrete
FlowMatchEulerDiscrete FlowMatchHeunDiscrete FlowMatchLCM HeunDiscrete IPNDM KDPM2AncestralDiscrete
KDPM2Discrete LCM LMSDiscrete LTXEulerAncestralRF MiniMaxH3 PNDM SASolver SCM TCD UnCLIP UniPCMultistep"""

GONE = ("ScoreSdeVpScheduler",)  # a name whose module diffusers no longer has


def scheduler(name: str, **config: Any) -> Any:
    kind = getattr(diffusers, name, None) or getattr(diffusers.schedulers, name)
    return kind(**config)


def test_every_scheduler_is_imported_or_refused() -> None:
    found = {
        name
        for module in (diffusers, diffusers.schedulers)
        for name in dir(module)
        if name.endswith("Scheduler") and name not in GONE and inspect.isclass(getattr(module, name))
    }
    assert found <= set(REFUSED) | {f"{name}Scheduler" for name in IMPORTED.split()}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str) -> None:
    config, reason = REFUSED[name]
    if getattr(diffusers, name, None) is None and not hasattr(diffusers.schedulers, name):
        pytest.skip("this diffusers does not have it")
    with pytest.raises(ProgramError, match=reason):
        from_diffusers(scheduler(name, **config), 4)


@pytest.mark.parametrize(
    ("name", "config", "options", "reason"),
    [
        (
            "DDPMScheduler",
            {"thresholding": True, "sample_max_value": 2.0, "dynamic_thresholding_ratio": 1.5},
            {},
            "the quantile of a threshold",
        ),
        (  # diffusers picks its levels by a time that it was not given
            "DPMSolverSinglestepScheduler",
            {"thresholding": True, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
            {},
            "a row keeps the shape",
        ),
        ("DDPMScheduler", {"variance_type": "learned_range"}, {}, "variance_type='learned_range'"),
        ("UnCLIPScheduler", {"variance_type": "learned_range"}, {}, "variance_type='learned_range'"),
        ("DPMSolverMultistepScheduler", {"variance_type": "learned"}, {}, "variance_type='learned'"),
        ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, {}, "mu"),
        ("PNDMScheduler", {}, {"eta": 1.0}, "unknown option 'eta' of PNDMScheduler"),
        ("EulerDiscreteScheduler", {}, {"generator": 1}, "unknown option 'generator'"),
        ("LCMScheduler", {}, {"num_inference_steps": 3}, "unknown option 'num_inference_steps'"),
        ("EulerDiscreteScheduler", {"use_beta_sigmas": True}, {"sigmas": [3.0, "x"]}, "set_timesteps failed"),
    ],
)
def test_refused_configurations(name: str, config: dict[str, Any], options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ProgramError, match=reason):
        from_diffusers(scheduler(name, **config), 3, **options)


@pytest.mark.parametrize("steps", [0, -1, 2.5, "4", 10**6])
def test_number_of_steps(steps: Any) -> None:
    with pytest.raises(ProgramError, match="steps must be a whole number within 1"):
        from_diffusers(scheduler("EulerDiscreteScheduler"), steps)


def test_other_objects_are_refused() -> None:
    with pytest.raises(ProgramError, match="is not a diffusers scheduler"):
        from_diffusers("euler", 3)


class Adaptive:
    """A scheduler whose step size follows the network's output, unknown to any list of names."""

    config: ClassVar[dict[str, Any]] = {}

    def set_timesteps(self, num_inference_steps: int) -> None:
        self.timesteps = torch.linspace(1, 0.1, num_inference_steps)

    def step(self, model_output: Any, timestep: Any, sample: Any) -> Any:
        size = 0.1 / (0.1 + model_output.square().mean().sqrt())
        return (sample - size * model_output,)


class TwoNoises(Adaptive):
    def step(self, model_output: Any, timestep: Any, sample: Any) -> Any:
        self.kept = 0.9 * getattr(self, "kept", 0.0) + torch.randn_like(sample)
        return (sample - 0.1 * model_output + 0.3 * torch.randn_like(sample) + 0.2 * self.kept,)


class Uniform(Adaptive):
    def step(self, model_output: Any, timestep: Any, sample: Any) -> Any:
        return (sample - 0.1 * model_output + torch.rand_like(sample),)


class Long(Adaptive):
    """Every output counts until the end, with a weight of its own at each step: no fixed state holds that."""

    def step(self, model_output: Any, timestep: Any, sample: Any) -> Any:
        self.past = [*getattr(self, "past", []), model_output]
        return (sample + sum(np.cos(1.0 + i * i * float(timestep)) * p for i, p in enumerate(self.past)),)


def test_adaptive_steps_are_noticed() -> None:
    with pytest.raises(ProgramError, match=r"Adaptive cannot be a table: .* may adapt to the network's output"):
        from_diffusers(Adaptive(), 6)


def test_other_than_normal_noise_is_noticed() -> None:
    with pytest.raises(ProgramError, match=r"Uniform cannot be a table: .*torch.rand_like"):
        from_diffusers(Uniform(), 6)


def test_too_long_a_memory_is_noticed() -> None:
    assert from_diffusers(Long(), 6).slots <= 8
    with pytest.raises(ProgramError, match=r"Long cannot be a table: it needs \d+ slots, a program has at most 8"):
        from_diffusers(Long(), 40)


def test_two_noises_a_step_are_two_draws(rng: np.random.Generator) -> None:
    """One of them stays in a slot of its own; the order in which the scheduler draws them is kept."""
    found = import_scheduler(TwoNoises(), 5)
    assert found.program.slots == 2
    noise = [rng.normal(size=(3, 2)) for _ in range(10)]
    weights = {d.draw: d.weights for d in found.draws}
    x = rng.normal(size=(3, 2))
    ours = run(
        found.program,
        lambda sample, timestep, classes: np.tanh(sample),
        x,
        draw=lambda seeds, index, shape: sum((w * noise[j] for j, w in weights[index]), np.zeros(shape)),
    )
    wanted, kept = x, np.zeros((3, 2))
    for i in range(5):
        kept = 0.9 * kept + noise[2 * i]
        wanted = wanted - 0.1 * np.tanh(wanted) + 0.3 * noise[2 * i + 1] + 0.2 * kept
    assert np.allclose(ours, wanted, rtol=1e-10)
