"""The CPU kernels are really vector code: their arithmetic, disassembled, is packed and as wide as the instruction set."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Any

import pytest

core = pytest.importorskip("aigc_edge._core")
LIBRARY = Path(core.__file__).parent / "lib" / "libaigc_edge.a"
REGISTER = {"v3": "ymm", "v4": "zmm"}
COPIES = ("cut_tile",)  # operators without arithmetic
FLOAT_ARITHMETIC = re.compile(r"\tv(?:add|sub|mul|div|sqrt|max|min|fn?m(?:add|sub)\d+)(ps|ss) +(.*)")


@pytest.fixture(scope="module")
def listings(native: Any) -> list[str]:
    """The disassembly of every object in the library."""
    if platform.machine() != "x86_64" or not LIBRARY.is_file():
        pytest.skip("there is no x86-64 library here")
    printed = native.run(native.need("objdump"), "--disassemble", "--demangle", "--no-show-raw-insn", LIBRARY)
    return re.split(r"\n\S+:     file format", printed)


@pytest.mark.parametrize("isa", REGISTER)
@pytest.mark.parametrize("op", [op for op in core.ops() if op not in COPIES])
def test_arithmetic_is_packed_and_wide(listings: list[str], op: str, isa: str) -> None:
    kernel = [text for text in listings if f"<ae::ops::{isa}::{op}(" in text]
    assert len(kernel) == 1
    found = FLOAT_ARITHMETIC.findall(kernel[0])
    wide = sum(kind == "ps" and REGISTER[isa] in registers for kind, registers in found)
    assert wide >= 4
    assert wide >= 0.9 * len(found), f"{len(found) - wide} of {len(found)} floating-point operations are scalar or narrow"


@pytest.mark.parametrize("isa", REGISTER)
def test_no_function_that_other_files_share_is_compiled_for_an_instruction_set(listings: list[str], isa: str) -> None:
    # The linker keeps one copy of an inline function: if that were one with AVX-512, older CPUs would crash in innocent code.
    compiled_for_it = [text for text in listings if f"<ae::ops::{isa}::" in text]
    assert len(compiled_for_it) >= len(core.ops())
    for text in compiled_for_it:
        functions = set(re.findall(r"\n[0-9a-f]+ <(.+)>:", text))
        assert functions == {
            name for name in functions if f"ae::ops::{isa}::" in name or "ae::simd::(anonymous namespace)" in name
        }
