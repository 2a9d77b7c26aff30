"""The installed package serves C and C++ programs: CMake and pkg-config, shared and static."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

core = pytest.importorskip("aigc_edge._core")
INSTALLED = Path(core.__file__).parent
CUDA_LIBRARIES = [Path(home) / "lib64" for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda", "/opt/cuda") if home]

CMAKE = """
cmake_minimum_required(VERSION 3.24)
project(consumer LANGUAGES C CXX)
find_package(aigc_edge 0.1 REQUIRED)
foreach(kind aigc_edge aigc_edge_static)
  add_executable(with_${kind} main.c)
  target_link_libraries(with_${kind} PRIVATE aigc_edge::${kind})
  set_target_properties(with_${kind} PROPERTIES LINKER_LANGUAGE CXX)
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


def assert_ran(printed: str) -> None:
    status, message = printed.split(" ", 1)
    assert status == "2"
    assert "no-such-bundle.aigc" in message


def test_cmake_finds_the_shared_and_the_static_library(native: Any, consumer: Path) -> None:
    folder = native.build(consumer / "build", f"-Daigc_edge_DIR={INSTALLED}/lib/cmake/aigc_edge", source=consumer)
    for kind in ("aigc_edge", "aigc_edge_static"):
        assert_ran(native.run(folder / f"with_{kind}"))


@pytest.mark.parametrize("package", ["aigc_edge", "aigc_edge-static"])
def test_pkg_config_finds_it(native: Any, consumer: Path, package: str) -> None:
    path = {"PKG_CONFIG_PATH": str(INSTALLED / "lib" / "pkgconfig")}
    flags = native.run(native.need("pkg-config"), "--cflags", "--libs", package, environment=path).split()
    if "-lcudart_static" in flags:
        folders = [folder for folder in CUDA_LIBRARIES if (folder / "libcudart_static.a").is_file()]
        if not folders:
            pytest.skip("there is no libcudart_static.a here")
        flags += [f"-L{folder}" for folder in folders]
    native.run(native.need("cc"), consumer / "main.c", "-o", consumer / "main", *flags)
    assert_ran(native.run(consumer / "main", environment={"LD_LIBRARY_PATH": str(INSTALLED / "lib")}))


def test_nothing_but_the_c_api_is_exported(native: Any) -> None:
    listed = native.run(native.need("nm"), "-D", "--defined-only", "--format=posix", INSTALLED / "lib" / "libaigc_edge.so")
    names = {line.split()[0].split("@")[0] for line in listed.splitlines()}
    assert names
    assert {name for name in names if not name.startswith("ae_")} == set()
