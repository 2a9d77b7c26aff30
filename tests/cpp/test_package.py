"""The installed package serves C and C++ programs: CMake and pkg-config, shared and static."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

core = pytest.importorskip("aigc_edge._core")
INSTALLED = Path(core.__file__).parent

CMAKE = """
cmake_minimum_required(VERSION 3.24)
project(consumer LANGUAGES ${LANGUAGES})
find_package(aigc_edge 0.1 REQUIRED)
foreach(kind aigc_edge aigc_edge_static)
  add_executable(with_${kind} main.c)
  target_link_libraries(with_${kind} PRIVATE aigc_edge::${kind})
endforeach()
"""

# A bundle that is not there is the shortest way through the library and back: the status says that the code really ran.
MAIN = """
#include <aigc_edge/aigc_edge.h>
#include <stdio.h>
int main(void) {
  ae_handle* handle = NULL;
  ae_open_options options = {0};
  options.size = sizeof options;
  ae_status status = ae_open("no-such-bundle.aigc", &options, &handle);
  printf("%d %s\\n", (int)status, ae_message(handle));
  ae_close(handle);
  return 0;
}
"""


@pytest.fixture
def consumer(tmp_path: Path) -> Path:
    (tmp_path / "CMakeLists.txt").write_text(CMAKE)
    (tmp_path / "main.c").write_text(MAIN)
    return tmp_path


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package in another folder."""
    folder = tmp_path_factory.mktemp("package")
    for part in ("include", "lib"):
        shutil.copytree(INSTALLED / part, folder / part, symlinks=True)
    return folder


def assert_ran(printed: str) -> None:
    status, message = printed.split(" ", 1)
    assert status == "2"
    assert "no-such-bundle.aigc" in message


@pytest.mark.parametrize("languages", ["C", "C;CXX"])
def test_cmake_finds_the_shared_and_the_static_library(native: Any, consumer: Path, moved: Path, languages: str) -> None:
    options = (f"-Daigc_edge_DIR={moved}/lib/cmake/aigc_edge", "-DCMAKE_DISABLE_FIND_PACKAGE_CUDAToolkit=ON")
    folder = native.build(consumer / "build", f"-DLANGUAGES={languages}", *options, source=consumer)
    for kind in ("aigc_edge", "aigc_edge_static"):
        assert_ran(native.run(folder / f"with_{kind}"))


@pytest.mark.parametrize("package", ["aigc_edge", "aigc_edge-static"])
def test_pkg_config_finds_it(native: Any, consumer: Path, moved: Path, package: str) -> None:
    path = {"PKG_CONFIG_PATH": str(moved / "lib" / "pkgconfig")}
    flags = native.run(native.need("pkg-config"), "--cflags", "--libs", package, environment=path).split()
    own = (moved / "lib").glob("libcudart*") if package.endswith("static") else ()
    assert [Path(flag).resolve() for flag in flags if "cudart" in flag] == [library.resolve() for library in own]
    native.run(native.need("cc"), consumer / "main.c", "-o", consumer / "main", *flags)
    assert_ran(native.run(consumer / "main", environment={"LD_LIBRARY_PATH": str(moved / "lib")}))


def test_no_number_is_read_or_written_as_the_locale_says(native: Any) -> None:
    listed = native.run(native.need("nm"), "--undefined-only", "--format=posix", INSTALLED / "lib" / "libaigc_edge.a")
    names = {line.split()[0] for line in listed.splitlines() if " U " in f"{line} "}
    assert "malloc" in names or "_Znwm" in names
    of_c = {f"{prefix}{name}" for prefix in ("", "v", "sn", "vsn", "vs") for name in ("printf", "scanf")}
    assert names & (of_c | {"sprintf", "sscanf", "strtod", "strtof", "atof", "_ZNSt6localeC1Ev"}) == set()


def test_nothing_but_the_c_api_is_exported(native: Any) -> None:
    listed = native.run(native.need("nm"), "-D", "--defined-only", "--format=posix", INSTALLED / "lib" / "libaigc_edge.so")
    names = {line.split()[0].split("@")[0] for line in listed.splitlines()}
    assert names
    assert {name for name in names if not name.startswith("ae_")} == set()
