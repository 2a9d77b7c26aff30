"""Work is bounded by what networks cost, and errors of single evaluations are weighted by what they do to the final sample."""

from __future__ import annotations

import numpy as np
import pytest

from aigc_edge.compress.calibration.compute_budget import MEASURE, OBSERVE, ComputeBudget, dry_run, evenly_spaced, output_gains
from aigc_edge.compress.calibration.trajectory import Calibration
from aigc_edge.diffusion import build, reference


def test_small_networks_take_all_samples_and_large_ones_few() -> None:
    small, large, huge = (ComputeBudget(macs) for macs in (1e8, OBSERVE / 5, 1e15))
    assert (small.observed(32), small.measured(32), small.ranks_whole(64, 32)) == (32, 32, True)
    assert (large.observed(32), large.measured(32)) == (5, int(5 * MEASURE / OBSERVE))
    assert (huge.observed(32), huge.measured(32), huge.ranks_whole(64, 1)) == (1, 1, False)
    assert ComputeBudget(OBSERVE / 5, scale=2).observed(32) == 10
    assert huge.trials(64, 10) == 12
    assert small.trials(64, 10) == 64


def test_a_dry_run_counts_evaluations(rng: np.random.Generator, make: dict) -> None:
    net = make["unet"](rng)
    records = dry_run(net.calibration(4))
    assert len(records) == len(net.program.rows)
    assert {len(record.inputs["sample"]) for record in records} == {2}  # one sample, guided
    assert len(dry_run(make["chain"](rng).calibration(3))) == 1


def test_spots_are_spread() -> None:
    assert evenly_spaced(1) == [0]
    assert evenly_spaced(3) == [0, 1, 2]
    assert evenly_spaced(10) == [0, 3, 6, 9]


def test_gains_are_those_of_the_program(rng: np.random.Generator, make: dict) -> None:
    """Against runs of the program in float64 with the change of one output."""
    net = make["unet"](rng)
    schedule = {"prediction": "edm", "sigma_data": 0.5, "sigma_min": 0.02, "sigma_max": 10.0, "rho": 7.0}
    program = build(schedule, "dpmpp_2m", 5)
    calibration = Calibration.draw(net.spec, program, 2, num_classes=3, seed=int(rng.integers(2**31)))
    calls = [0, 2, 4]

    def final(changed: int) -> np.ndarray:
        count = iter(range(100))
        return reference.run(
            program,
            lambda x, t, c: np.full(x.shape, 1.0 if next(count) == changed else 0.0),
            np.zeros((1, 1, 8, 8)),
            classes=np.zeros(1, np.int64),
            null_class=3,
        )

    wanted = [np.mean((final(call) - final(-1)) ** 2) for call in calls]
    assert output_gains(calibration, calls) == pytest.approx(wanted, rel=1e-2)
    assert len({round(value, 9) for value in wanted}) > 1
