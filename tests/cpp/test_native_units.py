"""The C++ tests of the native foundation, each a program that checks itself."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize("name", ["test_philox", "test_parallel"])
def test_program(native: Any, name: str) -> None:
    assert native.run(native.build_test(name)) == "done\n"


def test_the_loop_allocates_nothing(native: Any) -> None:
    program = native.build_test("test_loop_allocations")
    assert native.run(program, native.root / "tests" / "data" / "digits-tiny.aigc") == "done\n"
