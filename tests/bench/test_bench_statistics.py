"""Quantile intervals against the binomial distribution itself, ratios against their definition."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from aigc_edge.bench.statistics import P90_NEEDS, compare, quantile_ranks, summary, verdict


@pytest.mark.parametrize("n", [6, 9, 25, 64, 100, 333, 1000])
@pytest.mark.parametrize("q", [0.5, 0.9])
def test_ranks_cover_the_quantile_and_no_narrower_pair_does(n: int, q: float) -> None:
    ranks = quantile_ranks(n, q)
    below = stats.binom(n, q)  # how many samples lie below the quantile
    if ranks is None:  # then even the extremes leave more than 2.5 % on one side
        assert max(below.pmf(0), below.pmf(n)) > 0.025 - 1e-9
        return
    low, high = ranks
    assert below.cdf(high) - below.cdf(low) >= 0.95
    assert below.cdf(low) <= 0.025 < below.cdf(low + 1)
    assert below.sf(high) <= 0.025 < below.sf(high - 1)


def test_ranks_of_many_samples_agree_with_the_binomial() -> None:
    low, high = quantile_ranks(5000, 0.5) or (0, 0)
    assert abs(low + 1 - stats.binom(5000, 0.5).ppf(0.025)) <= 1
    assert abs(high - stats.binom(5000, 0.5).ppf(0.975)) <= 1


def test_interval_of_the_median_covers_it_as_often_as_it_says(rng: np.random.Generator) -> None:
    draws = np.sort(rng.lognormal(size=(4000, 25)), axis=1)
    low, high = quantile_ranks(25, 0.5) or (0, 0)
    covered = np.mean((draws[:, low] <= 1) & (draws[:, high] >= 1))  # the median of a log-normal is 1
    assert covered >= 0.95 - 4 * np.sqrt(0.95 * 0.05 / 4000)


def test_summary_is_what_numpy_says(rng: np.random.Generator) -> None:
    samples = rng.gamma(2.0, size=P90_NEEDS)
    figures = summary(samples.tolist())
    assert figures["median"] == pytest.approx(np.median(samples), rel=1e-15)
    assert figures["p90"] == pytest.approx(np.quantile(samples, 0.9), rel=1e-15)
    assert figures["quartiles"] == pytest.approx(np.quantile(samples, [0.25, 0.75]), rel=1e-15)
    assert (figures["min"], figures["max"], figures["n"]) == (samples.min(), samples.max(), P90_NEEDS)
    assert figures["median_interval"][0] <= figures["median"] <= figures["median_interval"][1]


def test_too_few_samples_name_no_p90_and_no_interval() -> None:
    assert summary([1.0] * (P90_NEEDS - 1))["p90"] is None
    assert summary([1.0, 2.0])["median_interval"] is None


@pytest.mark.parametrize("samples", [[], [1.0, float("nan")], [float("inf")]])
def test_no_summary_of_nothing_or_of_nonsense(samples: list[float]) -> None:
    with pytest.raises(ValueError):
        summary(samples)


def test_ratios_are_taken_within_a_round(rng: np.random.Generator) -> None:
    ours = rng.gamma(2.0, size=101)  # rounds differ wildly, the pairs do not
    found = compare(ours.tolist(), (ours * 1.25).tolist())
    assert found["ratio"] == pytest.approx(1.25, rel=1e-12)
    assert found["interval"] == pytest.approx([1.25, 1.25], rel=1e-12)
    assert found["verdict"] == "FASTER"
    assert compare((ours * 1.25).tolist(), ours.tolist())["verdict"] == "SLOWER"
    assert compare(ours.tolist(), ours.tolist())["verdict"] == "SAME"


def test_ratios_of_noise_alone_are_unclear() -> None:
    ours, theirs = [1.0, 2.0] * 20, [2.0, 1.0] * 20
    assert compare(ours, theirs)["verdict"] == "UNCLEAR"


def test_ratios_need_pairs() -> None:
    with pytest.raises(ValueError):
        compare([1.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.991, 1.009, "SAME"),
        (1.001, 1.2, "FASTER"),
        (0.8, 0.999, "SLOWER"),
        (0.98, 1.02, "UNCLEAR"),
        (1.001, 1.005, "SAME"),
    ],
)
def test_verdicts(low: float, high: float, said: str) -> None:
    assert verdict(low, high) == said
