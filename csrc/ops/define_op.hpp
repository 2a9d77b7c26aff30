// AE_DEFINE_OP(randn, RandnParams, AE_CUDA_KERNEL(randn)) ends csrc/ops/randn/op.cpp. Above it stand
//   RandnParams bind(Arguments&)       reads the parameters from generic arguments
//   Work check(const RandnParams&)     throws Error for values that are not allowed; returns how much there is to do
// The macro declares the kernels of cpu.cpp, which is compiled once per instruction set, and of cuda.cu (an op without one passes
// nullptr), and defines the op's C++ function and what the table (table.cpp) refers to.
#pragma once

#include <algorithm>
#include <string>

#include "core/error.hpp"
#include "core/isa.hpp"
#include "core/parallel.hpp"
#include "ops/blocks.hpp"
#include "ops/ops.hpp"

namespace ae::ops {

// Waking a thread takes some tens of microseconds; less work than this is faster on one thread.
constexpr int64_t kBytesPerThread = 1 << 20;

template <class Params>
using CpuKernel = void (*)(const Params&, int64_t begin, int64_t end);

template <class Params>
void run_on_cpu(const Params& params, const Work& work, CpuKernel<Params> kernel) {
  const int64_t threads = std::min<int64_t>(params.launch.threads, work.bytes / kBytesPerThread);
  if (threads <= 1) return kernel(params, 0, work.units);
  const int64_t ranges = std::min(work.units, 4 * threads);  // more than threads, so that a thread that is held up matters less
  parallel_for(ranges, static_cast<int>(threads),
               [&](int64_t i) { kernel(params, work.units * i / ranges, work.units * (i + 1) / ranges); });
}

// On the device of the tensors. `cuda` is null where there is no CUDA kernel.
template <class Params>
void launch(const char* op, const Params& params, const Work& work, CpuKernel<Params> cpu, void (*cuda)(const Params&)) {
  const Device::Kind kind = params.launch.device.kind;
  if (kind == Device::kCpu) return run_on_cpu(params, work, cpu);
  if (kind == Device::kOther) {
    throw Error(kUnsupported, std::string(op) + ": there is no kernel for the device of the tensors: " +
                                  "move them to the CPU or a CUDA device");
  }
  if (!cuda) {
    throw Error(kUnsupported, std::string(op) + ": this build has no CUDA kernel: " +
                                  "move the tensors to the CPU, or build with AIGC_EDGE_CUDA=ON");
  }
  cuda(params);
}

}  // namespace ae::ops

#if defined(AIGC_EDGE_CUDA) || defined(AIGC_EDGE_EMULATE_CUDA)
#define AE_CUDA_KERNEL(op) cuda::op
#else
#define AE_CUDA_KERNEL(op) nullptr
#endif

#define AE_DECLARE_CPU_KERNEL(isa, op, Params)        \
  namespace isa {                                     \
  void op(const Params&, int64_t begin, int64_t end); \
  }
#define AE_CPU_KERNEL(isa, op, Params) isa::op,

#define AE_DEFINE_OP(op, Params, cuda_kernel)                                                \
  AE_EACH_ISA(AE_DECLARE_CPU_KERNEL, op, Params)                                             \
  namespace cuda {                                                                           \
  void op(const Params&);                                                                    \
  }                                                                                          \
  void op(const Params& params) {                                                            \
    static constexpr CpuKernel<Params> kernels[] = {AE_EACH_ISA(AE_CPU_KERNEL, op, Params)}; \
    launch<Params>(#op, params, check(params), kernels[current_isa()], cuda_kernel);         \
  }                                                                                          \
  BoundOp bind_##op(Arguments& arguments) {                                                  \
    Params params = bind(arguments);                                                         \
    params.launch.device = arguments.device();                                               \
    return [params](int threads, void* stream) mutable {                                     \
      params.launch.threads = threads;                                                       \
      params.launch.stream = stream;                                                         \
      op(params);                                                                            \
    };                                                                                       \
  }
