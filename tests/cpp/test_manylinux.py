"""What tools/manylinux.py links can be loaded with glibc 2.28: the symbols it needs are of that version or older."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path
from typing import Any

import pytest

from tests.scripts import load_script

core = pytest.importorskip("aigc_edge._core")
LIBRARIES = Path(core.__file__).parent / "lib"
USES = """
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <charconv>
#include <cmath>
#include <dlfcn.h>
#include <sys/stat.h>
extern "C" int ae_answer(double x) {
  struct stat status;
  int answer = stat("/", &status) == 0 && lstat("/", &status) == 0 && fstat(0, &status) <= 0 ? 40 : 0;
  auto shared = std::make_shared<int>(1);
  std::thread([&, shared] { answer += *shared; }).join();
  char text[32];
  answer += std::to_chars(text, text + 32, std::pow(x, std::exp(x) - std::exp(x) + 1)).ptr > text;
  if (dlsym(nullptr, "no such symbol")) answer = 0;
  try {
    throw x;
  } catch (double) {
    return answer;
  }
}
"""


@pytest.fixture(scope="module")
def manylinux(native: Any) -> Any:
    for tool in ("gcc", "g++", "ar", "objdump", "readelf"):
        native.need(tool)
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("the C library is not glibc")
    return load_script("manylinux")


@pytest.fixture(scope="module")
def flags(manylinux: Any, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return manylinux.write_stubs(tmp_path_factory.mktemp("glibc"))


def test_code_that_uses_newer_versions_here_is_linked_to_the_old_ones(native, manylinux, flags, tmp_path):
    (tmp_path / "uses.cpp").write_text(USES)
    command = ("g++", "-std=c++17", "-O2", "-shared", "-fPIC", tmp_path / "uses.cpp", "-o")
    native.run(*command, tmp_path / "plain.so")
    native.run(*command, tmp_path / "linked.so", *flags)
    assert manylinux.too_new(tmp_path / "linked.so") == []
    assert ctypes.CDLL(str(tmp_path / "linked.so")).ae_answer(ctypes.c_double(1.5)) == 42
    if tuple(map(int, platform.libc_ver()[1].split("."))) >= (2, 34):
        newer = manylinux.too_new(tmp_path / "plain.so")
        assert {name.partition("@")[0] for name in newer} >= {"stat", "lstat", "dlsym"}


def test_a_symbol_of_no_library_is_found(native, manylinux, flags, tmp_path):
    (tmp_path / "lacks.c").write_text(
        "int ae_absent(void);\nint PyFoo(void);\nint ae_call(void) { return ae_absent() + PyFoo(); }\n"
    )
    native.run("gcc", "-shared", "-fPIC", tmp_path / "lacks.c", "-o", tmp_path / "lacks.so", *flags[:1])
    assert manylinux.too_new(tmp_path / "lacks.so") == ["ae_absent"]


def test_the_static_library_as_a_shared_one_for_glibc_2_28(native, manylinux, flags, tmp_path):
    archives = [LIBRARIES / name for name in ("libaigc_edge.a", "libcudart_static.a") if (LIBRARIES / name).is_file()]
    if not archives:
        pytest.skip("the package is not installed")
    exports = f"-Wl,--version-script={native.root / 'csrc' / 'cmake' / 'exports.map'}"
    whole = ("-Wl,--whole-archive", archives[0], "-Wl,--no-whole-archive", *archives[1:])
    native.run("g++", "-shared", "-o", tmp_path / "lib.so", *whole, *flags, exports, "-Wl,--gc-sections")
    assert manylinux.too_new(tmp_path / "lib.so") == []
    library, handle = ctypes.CDLL(str(tmp_path / "lib.so")), ctypes.c_void_p()
    library.ae_message.restype = ctypes.c_char_p
    assert library.ae_open(b"/no/such/bundle", None, ctypes.byref(handle)) == 2
    assert b"there is no bundle at /no/such/bundle" in library.ae_message(handle)
    library.ae_close(handle)
