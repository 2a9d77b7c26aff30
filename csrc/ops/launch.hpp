// How an op is to be run; part of every parameter struct.
#pragma once

namespace ae::ops {

struct Launch {
  int threads = 1;         // CPU: the most threads to use; small work takes one whatever stands here
  void* stream = nullptr;  // CUDA: the caller's stream
  int device = 0;          // CUDA: where the pointers are
};

}  // namespace ae::ops
