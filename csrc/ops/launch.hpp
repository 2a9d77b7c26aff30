// How to run an op; part of every parameter struct.
#pragma once

#include "core/tensor.hpp"

namespace ae::ops {

struct Launch {
  int threads = 1;         // CPU: the maximum; small work uses one
  void* stream = nullptr;  // CUDA: the caller's stream
  Device device;           // where the pointers are
};

}  // namespace ae::ops
