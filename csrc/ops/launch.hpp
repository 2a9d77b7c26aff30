// How to run an op; part of every parameter struct.
#pragma once

namespace ae::ops {

struct Launch {
  int threads = 1;         // CPU: the maximum; small work uses one
  void* stream = nullptr;  // CUDA: the caller's stream
  int device = 0;          // CUDA: the device of the pointers
};

}  // namespace ae::ops
