// How an op is to be run; part of every parameter struct.
#pragma once

#include "core/tensor.hpp"

namespace ae::ops {

struct Launch {
  int threads = 1;         // CPU: the most threads to use; small work takes one whatever stands here
  void* stream = nullptr;  // CUDA: the caller's stream
  Device device;           // where the pointers are
};

}  // namespace ae::ops
