"""Budgets are words, and what misses one says by how much."""

from __future__ import annotations

import math

import pytest

from aigc_edge.compress.budget import SLACK, Budget
from aigc_edge.compress.evaluation.quality import Requirement
from aigc_edge.errors import AigcEdgeError


def test_words_become_a_budget():
    assert Budget.parse([]) == Budget()
    assert Budget.parse(["psnr=30"]) == Budget(psnr=30.0)
    assert Budget.parse(["psnr=27.5", "frechet=1.05x"]) == Budget(27.5, 1.05)
    assert Budget.parse(["psnr=30, frechet=2"]) == Budget(30.0, 2.0)
    assert str(Budget(30.0, 1.05)) == "psnr=30,frechet=1.05x"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("30", "psnr=30"),
        ("psnr", "is no budget"),
        ("psnr=", "is no budget"),
        ("psnr=30x", "is no budget"),
        ("psnr=nan", "is no budget"),
        ("lpips=0.1", "is no budget"),
        ("psnr=-3", "between 0 and 200"),
        ("psnr=1e9", "between 0 and 200"),
        ("frechet=0.9x", "at least 1"),
        ("frechet=inf", "at least 1"),
        ("psnr=30,psnr=31", "twice"),
    ],
)
def test_what_is_no_budget_is_refused(text, words):
    with pytest.raises(AigcEdgeError, match=words):
        Budget.parse([text])


@pytest.mark.parametrize(
    ("budget", "figures", "said"),
    [
        (Budget(), {}, None),
        (Budget(psnr=30), {"psnr": 30.0}, None),
        (Budget(psnr=30), {"psnr": None}, None),  # equal images
        (Budget(psnr=30), {"psnr": 29.9}, "29.9 dB .* 30 dB"),
        (Budget(psnr=30), {"psnr": math.nan}, "nan"),
        (Budget(psnr=30), {}, "nan"),
        (Budget(frechet=1.1), {"frechet": 2.2}, None),
        (Budget(frechet=1.1), {"frechet": 2.3}, "2.3, 1.1 times the 2"),
        (Budget(frechet=1.1), {"frechet": math.nan}, "nan"),
        (Budget(30, 1.1), {"psnr": 40.0, "frechet": 2.3}, "Fréchet"),
    ],
)
def test_what_misses_it_says_by_how_much(budget, figures, said):
    import re

    found = budget.missed(figures, {"frechet": 2.0})
    assert found is None if said is None else re.search(said, found)


@pytest.mark.parametrize("psnr", [0.0, 1.0, SLACK])
def test_a_format_of_any_psnr_keeps_its_other_limit(psnr):
    assert Budget().completed(Requirement(psnr, 0.1)) == Budget(centred_l2=0.1)
    assert Budget(centred_l2=0.2, ssim=0.5).completed(Requirement(psnr, 0.1)) == Budget(centred_l2=0.2, ssim=0.5)
    assert Budget().completed(Requirement(psnr)) == Budget()
    assert Budget(ssim=0.5).completed(Requirement(30.0, 0.1)) == Budget(psnr=30 - SLACK, centred_l2=0.1, ssim=0.5)
