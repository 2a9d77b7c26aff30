// What CUDA kernels stand on: the launch macro, which a test can replace to run the same kernels on the CPU.
#pragma once

#if defined(AIGC_EDGE_EMULATE_CUDA)
#include "cuda_on_host.hpp"
#else
#include <cuda_runtime.h>
// Parentheses around a kernel with commas: AE_LAUNCH((kernel<2, true>), …).
#define AE_LAUNCH(kernel, grid, block, stream, ...) \
  (kernel)<<<(grid), (block), 0, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
#endif

#include <algorithm>
#include <cstdint>
#include <string>

#include "core/error.hpp"

namespace ae::cuda {

constexpr int kThreads = 256;  // a block
constexpr int64_t kMaxGridX = 0x7FFFFFFF;
constexpr int64_t kMaxGridY = 65535;

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  throw Error(kInternal, std::string(what) + " failed: " + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")");
}

// Makes the tensors' device the current one, and puts back the caller's.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&previous_), "asking for the current CUDA device");
    if (previous_ == device) {
      previous_ = -1;
    } else {
      check(cudaSetDevice(device), "choosing the CUDA device");
    }
  }
  ~DeviceGuard() {
    if (previous_ >= 0) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = -1;
};

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether float4 may be used on a pointer.
inline bool aligned16(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace ae::cuda
