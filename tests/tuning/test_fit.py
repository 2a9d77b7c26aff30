"""Fits reach what is known to be the best, beat what they begin with, and end when they should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aigc_edge.diffusion import build, reference
from aigc_edge.tuning.conversion import from_program
from aigc_edge.tuning.fit import Fit, FitSettings, fit_evaluations
from aigc_edge.tuning.initial_tables import MAX_TABLES, initial_tables
from aigc_edge.tuning.table import CoefficientTable


def halves(task: Any) -> tuple[Any, Any]:
    return task.take(slice(0, len(task) // 2)), task.take(slice(len(task) // 2, None))


def test_modes_of_a_linear_network_are_all_met(schedule: dict[str, Any], tools: Any, rng: np.random.Generator) -> None:
    """Three kinds of normal pixels are exact under two evaluations: the last line alone can interpolate three modes."""
    variances = np.repeat([0.01, 0.1, 0.5], 4)
    toy = tools.Toy(schedule, tools.gaussian(variances))
    latents = rng.standard_normal((48, 12))
    target = latents * np.sqrt(variances)  # the exact solution from pure noise
    task = tools.task(toy, latents, target)
    begin = next(initial_tables(toy.path, 2))
    table = Fit(*halves(task)).run([begin])
    assert task.error(begin) > 1e-4
    assert task.error(table) < 1e-7


def test_it_beats_every_start_on_noise_it_never_saw(edm: dict[str, Any], tools: Any, rng: np.random.Generator) -> None:
    toy = tools.Toy(edm, tools.two_points)
    many = build(edm, "unipc", 64)
    latents = rng.standard_normal((192, 12)).astype(np.float32)
    target = reference.run(many, toy, latents)
    task = tools.task(toy, latents[:128], target[:128])
    unseen = tools.task(toy, latents[128:], target[128:])
    begin = [from_program(build(edm, solver, 4), toy.path) for solver in ("deis", "dpmpp_2m")]
    told: list[float] = []
    fit = Fit(*halves(task), on_improved=lambda table, error: told.append(error))
    table = fit.run(begin)
    assert unseen.error(table) < 0.25 * min(unseen.error(start) for start in begin)  # 6 dB
    assert told == sorted(told, reverse=True)
    assert (table, fit.error) == (fit.table, told[-1])
    assert toy.path.low <= table.levels.min()
    assert table.levels.max() <= toy.path.high


def test_a_perfect_start_stays(edm: dict[str, Any], tools: Any, rng: np.random.Generator) -> None:
    variances = np.full(6, 0.25)
    toy = tools.Toy(edm, tools.gaussian(variances))
    latents = rng.standard_normal((32, 6)).astype(np.float32)
    begin = from_program(build(edm, "dpmpp_2m", 3), toy.path)
    task = tools.task(toy, latents, np.concatenate([p.run(begin)[1] for p in tools.task(toy, latents, latents).batches()]))
    assert task.error(begin) == 0
    assert Fit(*halves(task)).run([begin]) is begin


def test_enough_ends_it_with_the_best_so_far(edm: dict[str, Any], tools: Any, rng: np.random.Generator) -> None:
    toy = tools.Toy(edm, tools.two_points)
    latents = rng.standard_normal((32, 6))
    spent: list[int] = []
    task = tools.task(toy, latents, np.sign(latents) * 0.7, on_evaluated=spent.append)
    begin = [from_program(build(edm, solver, 3), toy.path) for solver in ("ddim", "deis")]
    at_once = Fit(*halves(task), should_stop=lambda: True).run(begin)
    assert at_once is min(begin, key=halves(task)[1].error)
    spent.clear()
    Fit(*halves(task), should_stop=lambda: sum(spent) > 1000).run(begin)
    assert 1000 < sum(spent) < 1000 + 32


@pytest.mark.parametrize(("nfe", "samples"), [(1, 16), (3, 40), (5, 300)])
def test_it_costs_no_more_than_it_says(nfe: int, samples: int, edm: dict[str, Any], tools: Any, rng: np.random.Generator) -> None:
    toy = tools.Toy(edm, tools.two_points)
    latents = rng.standard_normal((samples, 4))
    spent: list[int] = []
    task = tools.task(toy, latents, np.sign(latents) * 0.7, on_evaluated=spent.append)
    begin = [from_program(build(edm, solver, nfe), toy.path) for solver in ("ddim", "deis")]
    settings = FitSettings(steps=4, try_steps=1)
    Fit(*halves(task), settings=settings).run(begin)
    assert 0 < sum(spent) <= fit_evaluations(nfe, samples // 2, samples // 2, 2, settings)


def test_networks_that_break_lose(edm: dict[str, Any], tools: Any, rng: np.random.Generator) -> None:
    """Inputs beyond anything trained on give NaN: such a table must never be kept."""
    toy = tools.Toy(edm, tools.two_points)

    def fragile(sample: np.ndarray, time: np.ndarray, classes: Any) -> np.ndarray:
        found = toy(sample, time)
        return np.where(np.abs(sample).max() > 50, np.nan, found)

    latents = rng.standard_normal((32, 6)).astype(np.float32)
    from aigc_edge.tuning.task import Task

    task = Task(fragile, toy.path, latents, np.sign(latents) * np.float32(0.7))
    good = from_program(build(edm, "ddim", 3), toy.path)
    bad = CoefficientTable(good.levels, good.weights * 1e4)
    assert task.error(bad) == np.inf
    table = Fit(*halves(task)).run([bad, good])
    assert np.isfinite(task.error(table))


def test_starts_lie_on_the_path(schedule: dict[str, Any], tools: Any) -> None:
    toy = tools.Toy(schedule, tools.two_points)
    found = list(initial_tables(toy.path, 5))
    assert 20 < len(found) <= MAX_TABLES
    for table in found:
        assert np.all(np.diff(table.levels) < 0)
        assert toy.path.low - 1e-9 <= table.levels[-1]
        assert table.levels[0] <= toy.path.high + 1e-9
    narrow = {(round(t.levels[0], 3), round(t.levels[-1], 3)) for t in found}
    assert len(narrow) >= 9
