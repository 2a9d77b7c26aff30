# Cross-compile for 64-bit Arm Linux: cmake --toolchain csrc/cmake/aarch64.cmake (Debian: g++-aarch64-linux-gnu; qemu-user runs it).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
find_program(AIGC_EDGE_QEMU NAMES qemu-aarch64 qemu-aarch64-static)
if(AIGC_EDGE_QEMU)
  set(CMAKE_CROSSCOMPILING_EMULATOR "${AIGC_EDGE_QEMU};-L;/usr/aarch64-linux-gnu")
endif()
