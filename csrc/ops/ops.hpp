// The table of all ops, for language bindings; C++ callers use the functions in each op's params.hpp.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "ops/arguments.hpp"

namespace ae::ops {

// Runs an op whose arguments are bound: with up to `threads` threads on a CPU, on `stream` on a GPU. Throws Error.
using BoundOp = std::function<void(int threads, void* stream)>;

struct Op {
  const char* name;
  BoundOp (*bind)(Arguments& arguments);  // reads all arguments; throws Error
};

const std::vector<Op>& all();
const Op& find(const std::string& name);  // throws Error when there is none
std::vector<Parameter> parameters_of(const Op& op);

}  // namespace ae::ops
