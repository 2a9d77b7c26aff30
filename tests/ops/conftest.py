"""Shared by the tests of ops."""

from __future__ import annotations

import secrets

import pytest


@pytest.fixture
def fresh_seed() -> int:
    """A fresh seed for random inputs, printed when the test fails."""
    seed = secrets.randbits(32)
    print(f"seed of the random inputs: {seed}")
    return seed
