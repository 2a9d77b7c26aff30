// All ops of the library, for bindings; C++ callers use the functions that stand in each op's params.hpp.
#pragma once

#include <cstddef>
#include <string>

#include "core/fields.hpp"
#include "ops/launch.hpp"

namespace ae::ops {

struct Op {
  const char* name;
  std::string (*signature)();
  // Binds and checks the arguments, and runs the kernel of the device that the tensors are on, with so many threads of a CPU or
  // on that stream of a GPU. Throws Error.
  void (*call)(const Argument* arguments, size_t count, int threads, void* stream);
  bool has_cuda;
};

struct OpTable {
  const Op* ops;
  size_t count;
};
OpTable all();

}  // namespace ae::ops
