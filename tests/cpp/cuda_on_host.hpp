// Enough of CUDA to run unchanged kernels on the CPU, where AddressSanitizer sees every access: device memory is host memory.
//
// Blocks run one after another. Within a block each CUDA thread is a fibre (ucontext); it runs until it waits at a barrier or a
// shuffle, or ends. Warps go one at a time, lanes in order. So results are deterministic, and races, timing, tensor cores and
// inline PTX are not covered. Wrong uses of barriers and shuffles end the program with a message.
//
// What is queued on a stream (kernels, copies) is done at once, but a capture only records it. Memory comes from allocations of
// its own, filled with NaN, and copies from or to other addresses than their direction says end the program.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// Fibres run one after another, so nothing needs to be atomic.
template <class T>
inline T atomicAdd(T* where, T value) {
  const T before = *where;
  *where = before + value;
  return before;
}
template <class T>
inline T atomicMin(T* where, T value) {
  const T before = *where;
  if (value < before) *where = value;
  return before;
}

using cudaStream_t = void*;
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum { cudaStreamNonBlocking = 1, cudaStreamCaptureModeThreadLocal = 1 };
struct CUgraph_st {
  std::vector<std::function<void()>> nodes;
};
using cudaGraph_t = CUgraph_st*;
using cudaGraphExec_t = CUgraph_st*;

namespace emulation {

enum class State { kReady, kAtBlockBarrier, kAtWarpBarrier, kDone };

struct Fibre {
  static constexpr size_t kStackBytes = 256 << 10;  // AddressSanitizer makes frames large
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  void* sanitizer = nullptr;
  State state = State::kDone;
  dim3 thread;
};

struct Machine {
  std::vector<Fibre> fibres;
  ucontext_t scheduler;
  void* scheduler_sanitizer = nullptr;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_bytes = 0;
  unsigned current = 0;
  dim3 block, block_size, grid_size;
  void (*body)(const void*) = nullptr;
  const void* kernel = nullptr;
  uint64_t exchange[32][32];  // [warp][lane], for shuffles
  cudaError_t error = cudaSuccess;
  int launches = 0;  // since the program began, refused ones too

  std::map<char*, size_t> memory;  // of the device: address → bytes
  std::unique_ptr<CUgraph_st> capture;
  bool invalidated = false;  // the capture, by a call that may not be in one
  int graphs = 0;            // replays
  // Where a framework captures by means of its own: receives the number of each operation, which `again` then repeats. Whoever
  // waits for the device meanwhile is refused.
  void (*recorder)(int64_t number) = nullptr;
  std::vector<std::function<void()>> recorded;
};

inline Machine& machine() {
  static Machine only;
  return only;
}

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "CUDA emulation: %s\n", what);
  std::abort();
}

inline void start_switch([[maybe_unused]] void** keep, [[maybe_unused]] const void* stack, [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(keep, stack, bytes);
#endif
}
inline void finish_switch([[maybe_unused]] void* keep, [[maybe_unused]] const void** stack, [[maybe_unused]] size_t* bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(keep, stack, bytes);
#endif
}

// Called on a fibre: gives the CPU back and returns when the fibre may go on.
inline void pause(State state) {
  Machine& m = machine();
  Fibre& self = m.fibres[m.current];
  self.state = state;
  start_switch(state == State::kDone ? nullptr : &self.sanitizer, m.scheduler_stack, m.scheduler_stack_bytes);
  swapcontext(&self.context, &m.scheduler);
  finish_switch(self.sanitizer, nullptr, nullptr);
}

inline void fibre_main() {
  Machine& m = machine();
  finish_switch(nullptr, &m.scheduler_stack, &m.scheduler_stack_bytes);
  m.body(m.kernel);
  pause(State::kDone);
}

inline void resume(unsigned index) {
  Machine& m = machine();
  m.current = index;
  start_switch(&m.scheduler_sanitizer, m.fibres[index].stack.get(), Fibre::kStackBytes);
  swapcontext(&m.scheduler, &m.fibres[index].context);
  finish_switch(m.scheduler_sanitizer, nullptr, nullptr);
}

// Runs the lanes first … last - 1 until each is done or waits for the block.
inline void run_warp(unsigned first, unsigned last) {
  Machine& m = machine();
  for (;;) {
    unsigned waiting = 0;
    for (unsigned i = first; i < last; ++i) {
      if (m.fibres[i].state == State::kReady) resume(i);
      waiting += m.fibres[i].state == State::kAtWarpBarrier;
    }
    if (waiting == 0) return;
    if (waiting != last - first) fail("a full-mask warp operation was not reached by every lane");
    for (unsigned i = first; i < last; ++i) m.fibres[i].state = State::kReady;
  }
}

inline void run_block(unsigned threads) {
  Machine& m = machine();
  for (unsigned i = 0; i < threads; ++i) {
    Fibre& fibre = m.fibres[i];
    fibre.thread = dim3(i % m.block_size.x, i / m.block_size.x % m.block_size.y, i / (m.block_size.x * m.block_size.y));
    fibre.state = State::kReady;
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack.get();
    fibre.context.uc_stack.ss_size = Fibre::kStackBytes;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, fibre_main, 0);
  }
  for (;;) {
    for (unsigned first = 0; first < threads; first += 32) run_warp(first, first + 32 < threads ? first + 32 : threads);
    unsigned waiting = 0;
    for (unsigned i = 0; i < threads; ++i) waiting += m.fibres[i].state == State::kAtBlockBarrier;
    if (waiting == 0) return;
    if (waiting != threads) fail("__syncthreads was not reached by every thread of the block");
    for (unsigned i = 0; i < threads; ++i) m.fibres[i].state = State::kReady;
  }
}

template <class Kernel>
void launch(dim3 grid, dim3 block, const Kernel& kernel) {
  Machine& m = machine();
  ++m.launches;
  const unsigned threads = block.x * block.y * block.z;
  if (threads == 0 || threads > 1024 || grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535) {
    m.error = cudaErrorInvalidConfiguration;
    return;
  }
  if (m.fibres.size() < threads) m.fibres.resize(threads);
  m.body = [](const void* given) { (*static_cast<const Kernel*>(given))(); };
  m.kernel = &kernel;
  m.block_size = block;
  m.grid_size = grid;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        m.block = dim3(x, y, z);
        run_block(threads);
      }
    }
  }
}

// Does what is queued on a stream, or records it.
inline void enqueue(std::function<void()> work) {
  Machine& m = machine();
  if (m.capture) return m.capture->nodes.push_back(std::move(work));
  work();
  if (m.recorder == nullptr) return;
  m.recorded.push_back(std::move(work));
  m.recorder(static_cast<int64_t>(m.recorded.size() - 1));
}

inline cudaError_t refused_in_capture() {
  Machine& m = machine();
  if (!m.capture && m.recorder == nullptr) return cudaSuccess;
  m.invalidated = true;
  return m.error = cudaErrorStreamCaptureUnsupported;
}

inline bool on_device(const void* data, size_t bytes) {
  const auto& memory = machine().memory;
  const char* const at = static_cast<const char*>(data);
  auto after = memory.upper_bound(const_cast<char*>(at));
  return after != memory.begin() && at + bytes <= (--after)->first + after->second;
}

template <class T>
T exchange(T value, unsigned from_lane) {
  static_assert(sizeof(T) <= 8, "shuffles move 8 bytes at most");
  Machine& m = machine();
  const unsigned warp = m.current / 32, lane = m.current % 32;
  std::memcpy(&m.exchange[warp][lane], &value, sizeof value);
  pause(State::kAtWarpBarrier);
  std::memcpy(&value, &m.exchange[warp][from_lane % 32], sizeof value);
  pause(State::kAtWarpBarrier);
  return value;
}

inline unsigned lane() { return machine().current % 32; }

}  // namespace emulation

#define threadIdx (emulation::machine().fibres[emulation::machine().current].thread)
#define blockIdx (emulation::machine().block)
#define blockDim (emulation::machine().block_size)
#define gridDim (emulation::machine().grid_size)
#define AE_LAUNCH(kernel, grid, block, stream, ...) \
  (static_cast<void>(stream),                       \
   emulation::enqueue([=] { emulation::launch(dim3(grid), dim3(block), [=] { (kernel)(__VA_ARGS__); }); }))

inline void __syncthreads() { emulation::pause(emulation::State::kAtBlockBarrier); }
inline void __syncwarp(unsigned = ~0u) { emulation::pause(emulation::State::kAtWarpBarrier); }
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return emulation::exchange(value, static_cast<unsigned>(lane));
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulation::exchange(value, emulation::lane() ^ static_cast<unsigned>(mask));
}
template <class T>
T __shfl_down_sync(unsigned, T value, unsigned delta) {
  const unsigned lane = emulation::lane();
  return emulation::exchange(value, lane + delta < 32 ? lane + delta : lane);
}

inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetLastError() {
  const cudaError_t error = emulation::machine().error;
  emulation::machine().error = cudaSuccess;
  return error;
}
inline const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaSuccess                         ? "cudaSuccess"
         : error == cudaErrorMemoryAllocation         ? "cudaErrorMemoryAllocation"
         : error == cudaErrorInvalidConfiguration     ? "cudaErrorInvalidConfiguration"
         : error == cudaErrorStreamCaptureUnsupported ? "cudaErrorStreamCaptureUnsupported"
                                                      : "cudaErrorStreamCaptureInvalidated";
}
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess                         ? "no error"
         : error == cudaErrorMemoryAllocation         ? "out of memory"
         : error == cudaErrorInvalidConfiguration     ? "invalid configuration argument"
         : error == cudaErrorStreamCaptureUnsupported ? "operation not permitted when stream is capturing"
                                                      : "operation failed due to a previous error during capture";
}

// Each allocation stands between two borders that nobody may write to.
constexpr size_t kBorder = 256;
inline cudaError_t cudaMalloc(void** data, size_t bytes) {
  if (const cudaError_t error = emulation::refused_in_capture()) return error;
  char* const all = static_cast<char*>(std::aligned_alloc(kBorder, (bytes + 3 * kBorder - 1) / kBorder * kBorder));
  if (all == nullptr) return cudaErrorMemoryAllocation;
  std::memset(all, 0xA5, kBorder);
  std::memset(all + kBorder, 0xFF, bytes);
  std::memset(all + kBorder + bytes, 0xA5, kBorder);
  emulation::machine().memory[all + kBorder] = bytes;
  *data = all + kBorder;
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* data) {
  const auto found = emulation::machine().memory.find(static_cast<char*>(data));
  if (found == emulation::machine().memory.end()) emulation::fail("cudaFree of memory that is not allocated");
  const auto* const begin = reinterpret_cast<unsigned char*>(found->first);
  for (size_t i = 0; i < kBorder; ++i)
    if (begin[-1 - static_cast<std::ptrdiff_t>(i)] != 0xA5 || begin[found->second + i] != 0xA5)
      emulation::fail("memory of the device was written out of bounds");
  std::free(found->first - kBorder);
  emulation::machine().memory.erase(found);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  if (emulation::on_device(to, bytes) != (kind != cudaMemcpyDeviceToHost) ||
      emulation::on_device(from, bytes) != (kind != cudaMemcpyHostToDevice))
    emulation::fail("a copy between other places than its direction says");
  emulation::enqueue([=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t) {
  if (!emulation::on_device(data, bytes)) emulation::fail("cudaMemsetAsync of memory that is not the device's");
  emulation::enqueue([=] { std::memset(data, value, bytes); });
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return *stream = new char, cudaSuccess; }
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete static_cast<char*>(stream);
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return emulation::refused_in_capture(); }
inline cudaError_t cudaStreamBeginCapture(cudaStream_t, int) {
  if (emulation::machine().capture) emulation::fail("a capture within a capture");
  emulation::machine().capture = std::make_unique<CUgraph_st>();
  emulation::machine().invalidated = false;
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  std::unique_ptr<CUgraph_st> captured = std::move(emulation::machine().capture);
  if (emulation::machine().invalidated) return *graph = nullptr, cudaErrorStreamCaptureInvalidated;
  return *graph = captured.release(), cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return cudaGraphDestroy(graph); }
inline cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  return *executable = new CUgraph_st(*graph), cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t) {
  if (const cudaError_t error = emulation::refused_in_capture()) return error;
  ++emulation::machine().graphs;
  for (const auto& node : graph->nodes) node();
  return cudaSuccess;
}
