// The table of all ops, for language bindings; C++ callers use the functions in each op's params.hpp.
#pragma once

#include <string>
#include <vector>

#include "ops/arguments.hpp"

namespace ae::ops {

struct Op {
  const char* name;
  const std::vector<Parameter>& (*parameters)();
  // Binds and checks the arguments and runs the kernel for the device of the tensors, with up to `threads` threads on a CPU or on
  // `stream` of a GPU. Throws Error.
  void (*call)(const Argument* arguments, size_t count, int threads, void* stream);
};

const std::vector<const Op*>& all();
const Op& find(const std::string& name);  // throws Error when there is none

}  // namespace ae::ops
