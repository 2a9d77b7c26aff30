"""The C++ tests of the native foundation, each a program that checks itself."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize("name", ["test_philox", "test_parallel"])
def test_program(native: Any, name: str) -> None:
    assert native.run(native.build_test(name)) == "done\n"
