// Joins each op's kernels, which CMake compiled once an instruction set and listed in op_list.inc, to one function and one table
// row.
#include <algorithm>
#include <string>

#include "core/error.hpp"
#include "core/isa.hpp"
#include "core/parallel.hpp"
#include "op_includes.inc"
#include "ops/blocks.hpp"
#include "ops/ops.hpp"

namespace ae::ops {
namespace {

// Waking a thread takes some tens of microseconds; less work than this is sooner done alone.
constexpr int64_t kBytesPerThread = 1 << 20;

template <class Params>
using Kernel = void (*)(const Params&, int64_t begin, int64_t end);

template <class Params>
void run_on_cpu(const Params& params, const Work& work, Kernel<Params> kernel) {
  const int64_t threads = std::min<int64_t>(params.launch.threads, work.bytes / kBytesPerThread);
  if (threads <= 1) return kernel(params, 0, work.units);
  const int64_t ranges = std::min(work.units, 4 * threads);  // more than threads, so that a thread that is held up matters less
  parallel_for(ranges, static_cast<int>(threads),
               [&](int64_t i) { kernel(params, work.units * i / ranges, work.units * (i + 1) / ranges); });
}

}  // namespace

#define AIGC_EDGE_KERNEL(isa, op, Params)             \
  namespace isa {                                     \
  void op(const Params&, int64_t begin, int64_t end); \
  }
#include "kernel_list.inc"
#undef AIGC_EDGE_KERNEL

#define AIGC_EDGE_OP(op, Params, cuda, ...)                    \
  Work check(const Params&);                                   \
  void op(const Params& params) {                              \
    static constexpr Kernel<Params> kernels[] = {__VA_ARGS__}; \
    run_on_cpu(params, check(params), kernels[current_isa()]); \
  }
#include "op_list.inc"
#undef AIGC_EDGE_OP

#define AIGC_EDGE_DECLARE_0(op, Params)
#define AIGC_EDGE_DECLARE_1(op, Params) \
  namespace cuda {                      \
  void op(const Params&);               \
  }
#define AIGC_EDGE_OP(op, Params, cuda, ...) AIGC_EDGE_DECLARE_##cuda(op, Params)
#include "op_list.inc"
#undef AIGC_EDGE_OP

namespace {

template <class Params>
std::string signature(const char* name) {
  SignatureWriter writer(name);
  Params params;
  fields(writer, params);
  return writer.text();
}

template <class Params>
void call(const char* name, void (*cpu)(const Params&), void (*cuda)(const Params&), const Argument* arguments, size_t count,
          int threads, void* stream) {
  Params params;
  Binder binder(name, arguments, count);
  fields(binder, params);
  const Device device = binder.finish(signature<Params>);
  params.launch.threads = threads;
  if (device.kind == Device::kCpu) return cpu(params);
  if (device.kind == Device::kOther) {
    throw Error(
        kUnsupported,
        std::string(name) + ": there is no kernel for the device that the tensors are on: move them to the CPU or a CUDA device");
  }
  if (!cuda) {
    throw Error(
        kUnsupported,
        std::string(name) + ": this build has no CUDA kernel: move the tensors to the CPU, or build with AIGC_EDGE_CUDA=ON");
  }
  params.launch.device = device.index;
  params.launch.stream = stream;
  check(params);
  cuda(params);
}

#define AIGC_EDGE_CUDA_0(op) nullptr
#define AIGC_EDGE_CUDA_1(op) cuda::op
#define AIGC_EDGE_OP(op, Params, cuda_flag, ...)                                               \
  {#op, [] { return signature<Params>(#op); },                                                 \
   [](const Argument* arguments, size_t count, int threads, void* stream) {                    \
     call<Params>(#op, op, AIGC_EDGE_CUDA_##cuda_flag(op), arguments, count, threads, stream); \
   },                                                                                          \
   cuda_flag != 0},
constexpr Op kOps[] = {
#include "op_list.inc"
};
#undef AIGC_EDGE_OP

}  // namespace

OpTable all() { return {kOps, sizeof kOps / sizeof kOps[0]}; }

}  // namespace ae::ops
