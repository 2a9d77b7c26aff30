"""Our solvers against k-diffusion's samplers around the same denoisers and the same noise, both in float64."""

from __future__ import annotations

import importlib.util
import math
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_edge.diffusion import Program, build
from aigc_edge.diffusion.reference import run
from aigc_edge.errors import ProgramError

torch = pytest.importorskip("torch", reason="k-diffusion needs torch")
pytest.importorskip("scipy", reason="k-diffusion's LMS needs SciPy")

SHAPE = (2, 3, 4)
TOLERANCE = 1e-10  # of the largest number
CHURN = {"s_churn": 2.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.007}
ALL_CHURN = {"s_churn": 1e6}  # more than the limit of the paper
SPACINGS = {"karras": ("karras", 7.0), "exponential": ("exponential", 7.0), "polyexponential": ("polynomial", 1.7)}

Draws = dict[int, np.ndarray]  # our number of the draw → unit normal noise
Feed = Callable[[Program, Draws], list[np.ndarray]]  # the noise in the order in which theirs asks for it


@pytest.fixture(scope="module")
def sampling() -> Iterator[Any]:
    """k_diffusion.sampling alone: the package's own __init__ imports what it trains and logs with."""
    found = importlib.util.find_spec("k_diffusion")
    if found is None or not found.submodule_search_locations:
        pytest.skip("k-diffusion is not installed: parity with it is not tested")
    folder = Path(next(iter(found.submodule_search_locations)))
    stubs = [name for name in ("torchdiffeq", "torchsde", "torchvision") if importlib.util.find_spec(name) is None]
    made: dict[str, Any] = {name: types.ModuleType(name) for name in stubs}
    if "torchdiffeq" in made:
        made["torchdiffeq"].odeint = None  # of its likelihood only
    if "torchvision" in made:
        made["torchvision"].transforms = made["torchvision.transforms"] = types.ModuleType("torchvision.transforms")
        made["torchvision.transforms"].functional = None  # of its image files only
    package = types.ModuleType("k_diffusion")
    package.__path__ = [str(folder)]
    before = dict(sys.modules)
    sys.modules.update(made | {"k_diffusion": package})
    try:
        yield importlib.import_module("k_diffusion.sampling")
    finally:
        for name in set(sys.modules) - set(before):
            if name.split(".")[0] in ("k_diffusion", *stubs):
                del sys.modules[name]


@pytest.fixture(params=["linear", "nonlinear"])
def denoise(request: pytest.FixtureRequest, rng: np.random.Generator) -> Callable[[np.ndarray, float], np.ndarray]:
    mix, shift = rng.normal(size=(4, 4)) / 3, rng.normal(size=4)

    def evaluate(x: np.ndarray, sigma: float) -> np.ndarray:
        scaled = x @ mix / math.hypot(sigma, 1)
        return scaled if request.param == "linear" else np.tanh(scaled + shift + 0.2 * math.log(sigma))

    return evaluate


def before(program: Program, noise: Draws) -> list[np.ndarray]:
    """Theirs draws in every step, whether it churns or not; a step may be of two rows, of which the second never churns."""
    return [noise[2 * i + 1] for i in range(0, program.nfe, program.slots)]


def after(program: Program, noise: Draws) -> list[np.ndarray]:
    """Theirs draws where eta is 0, too, and then multiplies by 0."""
    used = [noise[2 * i + 2] for i, row in enumerate(program.rows) if any(row.after_noise or ())]
    return used or [np.full(SHAPE, 1e3)] * program.nfe


def brownian(program: Program, noise: Draws) -> list[np.ndarray]:
    """Two overlapping increments a step: that of its first part, and that of the whole step, which contains the first."""
    fed, sigmas = [], [row.sigma for row in program.rows]
    for i in range(0, program.nfe - 1, 2):
        share = (sigmas[i] - sigmas[i + 1]) / (sigmas[i] - sigmas[i + 2])
        first, second = noise[2 * i + 2], noise[2 * i + 4]
        fed += [first, math.sqrt(share) * first + math.sqrt(1 - share) * second]
    return fed


# our solver, our options, their sampler, their options, how the noise is fed
CASES: list[tuple[str, dict[str, Any], str, dict[str, Any], Feed]] = [
    *[(s, o, f"sample_{n}", o, before) for s, n in (("euler", "euler"), ("heun", "heun"), ("dpm2", "dpm_2"))
      for o in ({}, CHURN, ALL_CHURN)],
    *[(s, o, f"sample_{n or s}", o, after)
      for s, n in (("euler_ancestral", ""), ("dpm2_ancestral", "dpm_2_ancestral"), ("dpmpp_3m_sde", ""))
      for o in ({}, {"eta": 0.0}, {"eta": 0.6, "s_noise": 0.9})],
    *[("dpmpp_2s", {"eta": eta, "s_noise": s}, "sample_dpmpp_2s_ancestral", {"eta": eta, "s_noise": s}, after)
      for eta, s in ((1.0, 1.0), (0.0, 1.0), (0.6, 0.9))],
    *[("dpmpp_2m_sde", o | {"solver_type": kind}, "sample_dpmpp_2m_sde", o | {"solver_type": kind}, after)
      for kind in ("midpoint", "heun") for o in ({}, {"eta": 0.0}, {"eta": 0.6, "s_noise": 0.9})],
    *[("dpmpp_sde", o, "sample_dpmpp_sde", o, brownian)
      for o in ({}, {"eta": 0.0}, {"eta": 0.6, "s_noise": 0.9}, {"r": 0.3, "eta": 0.8})],
    ("dpmpp_2m", {}, "sample_dpmpp_2m", {}, after),
    ("dpmpp_3m", {}, "sample_dpmpp_3m_sde", {"eta": 0.0}, after),
    *[("lms", {"order": k}, "sample_lms", {"order": k}, after) for k in (1, 2, 3, 4)],
]  # fmt: skip


@pytest.mark.parametrize("steps", [2, 5, 20])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("solver", "given", "name", "options", "feed"), CASES)
def test_same_as_k_diffusion(
    sampling: Any, denoise: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch,
    solver: str, given: dict[str, Any], name: str, options: dict[str, Any], feed: Feed, spacing: str, steps: int,
) -> None:  # fmt: skip
    """From their float64 sigmas, and from our own schedule of the same kind, which they only compute in float32."""
    ours, rho = SPACINGS[spacing]
    own = build({"prediction": "edm", "sigma_min": 0.03, "sigma_max": 14.6, "spacing": ours, "rho": rho}, solver, steps, **given)
    more = {} if spacing == "exponential" else {"rho": rho}
    sigmas = getattr(sampling, f"get_sigmas_{spacing}")(steps, 0.03, 14.6, **more).double()
    table = {"prediction": "edm", "kind": "table", "sigmas": sigmas.tolist()}
    program = build(table, solver, steps, **given)
    assert [row.sigma for row in own.rows] == pytest.approx([row.sigma for row in program.rows], rel=3e-6)

    noise = {index: rng.normal(size=SHAPE) for index in range(1, 2 * program.nfe + 1)}
    x = rng.normal(size=SHAPE)
    asked = iter([torch.from_numpy(n) for n in feed(program, noise)])
    monkeypatch.setattr(torch, "randn_like", lambda like: next(asked))
    if "eta" in options or solver in ("euler_ancestral", "dpm2_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde"):
        options = options | {"noise_sampler": lambda sigma, sigma_next: next(asked)}

    def model(sample: Any, sigma: Any) -> Any:
        return torch.from_numpy(denoise(sample.numpy(), float(sigma[0])))

    start = torch.from_numpy(x * program.init_scale)
    wanted = getattr(sampling, name)(model, start, sigmas, disable=True, **options).numpy()
    assert any(row.after_noise != (0.0,) * row.slots for row in program.rows) <= (next(asked, None) is None)  # all are used

    rows = iter(program.rows)

    def network(sample: np.ndarray, timestep: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
        row = next(rows)
        here = sample / row.c_in
        return (denoise(here, row.sigma) - row.c_skip * here) / row.c_out

    result = run(program, network, x, draw=lambda seeds, index, shape: noise[index])
    assert np.abs(result - wanted).max() < TOLERANCE * np.abs(wanted).max()


@pytest.mark.parametrize("evaluations", [2, 3, 4, 5, 9, 13, 20])
@pytest.mark.parametrize("options", [{}, {"eta": 0.6, "s_noise": 0.9}, {"eta": 1.0}])
def test_dpm_fast(sampling: Any, denoise: Any, rng: np.random.Generator, options: dict[str, Any], evaluations: int) -> None:
    """Theirs takes the number of evaluations and makes the levels itself."""
    steps = evaluations // 3 + 1
    schedule = {"prediction": "edm", "sigma_min": 0.03, "sigma_max": 14.6, "spacing": "exponential", "final_sigma": "sigma_min"}
    program = build(schedule, "dpm_fast", steps, evaluations=evaluations, **options)
    assert program.nfe == evaluations
    noise = {index: rng.normal(size=SHAPE) for index in range(1, 2 * program.nfe + 1)}
    asked = iter([torch.from_numpy(n) for n in after(program, noise)])
    silent = torch.zeros(SHAPE, dtype=torch.float64)
    x = rng.normal(size=SHAPE)
    before_default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        wanted = sampling.sample_dpm_fast(
            lambda sample, sigma: torch.from_numpy(denoise(sample.numpy(), float(sigma[0]))),
            torch.from_numpy(x * program.init_scale), 0.03, 14.6, evaluations, disable=True,
            noise_sampler=lambda sigma, sigma_next: next(asked, silent), **options,
        ).numpy()  # fmt: skip
    finally:
        torch.set_default_dtype(before_default)
    rows = iter(program.rows)

    def network(sample: np.ndarray, timestep: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
        row = next(rows)
        here = sample / row.c_in
        return (denoise(here, row.sigma) - row.c_skip * here) / row.c_out

    result = run(program, network, x, draw=lambda seeds, index, shape: noise[index])
    assert np.abs(result - wanted).max() < TOLERANCE * np.abs(wanted).max()


@pytest.mark.parametrize(("steps", "evaluations"), [(2, 6), (3, 5), (3, 0), (2, 2)])
def test_dpm_fast_refuses(steps: int, evaluations: int) -> None:
    with pytest.raises(ProgramError, match=r"evaluations"):
        build({"prediction": "edm", "spacing": "exponential"}, "dpm_fast", steps, evaluations=evaluations)
