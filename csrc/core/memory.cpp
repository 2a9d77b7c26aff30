#include "core/memory.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <type_traits>

#include "core/device.hpp"
#include "core/error.hpp"

// A build without CUDA has no memory but the host's, so that what follows the host's case there is left out.
#if defined(AIGC_EDGE_CUDA) || defined(AIGC_EDGE_EMULATE_CUDA)
#include "core/cuda.cuh"
#define AE_WITH_CUDA(...) __VA_ARGS__
#else
#define AE_WITH_CUDA(...)
#endif

namespace ae {
namespace {

constexpr size_t kAlignment = 64;                                         // bytes, on the host
constexpr int kHostToDevice = 1, kDeviceToHost = 2, kDeviceToDevice = 3;  // cudaMemcpyKind

AE_WITH_CUDA(cudaStream_t queue(void* stream) { return static_cast<cudaStream_t>(stream); })

}  // namespace

const Memory& Memory::host() {
  static const Memory memory;
  return memory;
}

Memory::Memory(Device::Kind kind, void* stream, const Allocator& allocator) : allocator_(allocator) {
  if (kind == Device::kCpu) return;
  if (const std::string reason = cuda_unavailable(); !reason.empty())
    throw Error(kUnsupported, "the device is CUDA, and " + reason + "; or choose the CPU");
  device_.kind = kind;
  stream_ = stream;
  own_stream_ = stream == nullptr;
  AE_WITH_CUDA(cuda::check(cudaGetDevice(&device_.index), "asking for the current CUDA device");
               cudaStream_t own = queue(stream_);
               if (own_stream_) cuda::check(cudaStreamCreateWithFlags(&own, cudaStreamNonBlocking), "making a CUDA stream");
               stream_ = own;)
}

Memory::~Memory() { AE_WITH_CUDA(if (own_stream_) cudaStreamDestroy(queue(stream_));) }

void* Memory::allocate(size_t bytes) const {
  bytes = (bytes / kAlignment + 1) * kAlignment;  // never 0, for which the address might be null
  void* data = nullptr;
  if (allocator_.allocate != nullptr) {
    data = allocator_.allocate(allocator_.user, bytes, device_.index, stream_);
  } else if (on_host()) {
    data = std::aligned_alloc(kAlignment, bytes);
  } else {
    AE_WITH_CUDA(const cuda::DeviceGuard guard(device_.index); if (cudaMalloc(&data, bytes) != cudaSuccess) {
      cudaGetLastError();  // so that it does not stick to the next call
      data = nullptr;
    })
  }
  if (data == nullptr) throw std::bad_alloc();
  return data;
}

void Memory::free(void* data) const {
  if (allocator_.allocate != nullptr) {
    allocator_.free(allocator_.user, data, device_.index, stream_);
  } else if (on_host()) {
    std::free(data);
  } else {
    AE_WITH_CUDA(cudaFree(data);)
  }
}

void Memory::transfer(void* to, const void* from, size_t bytes, [[maybe_unused]] int direction) const {
  if (on_host()) {
    std::memcpy(to, from, bytes);
  } else if (bytes != 0) {
    AE_WITH_CUDA(cuda::check(cudaMemcpyAsync(to, from, bytes, static_cast<cudaMemcpyKind>(direction), queue(stream_)),
                             "copying to, from or on the GPU");)
  }
}

void Memory::upload(void* to, const void* from, size_t bytes, int64_t times) const {
  auto* const out = static_cast<char*>(to);
  const size_t all = bytes * static_cast<size_t>(times);
  if (all == 0) return;
  transfer(out, from, bytes, kHostToDevice);
  for (size_t done = bytes; done < all; done *= 2) copy(out + done, out, std::min(done, all - done));
}

void Memory::download(void* to, const void* from, size_t bytes) const { transfer(to, from, bytes, kDeviceToHost); }

void Memory::copy(void* to, const void* from, size_t bytes) const { transfer(to, from, bytes, kDeviceToDevice); }

void Memory::zero(void* data, size_t bytes) const {
  if (on_host()) {
    std::memset(data, 0, bytes);
  } else if (bytes != 0) {
    AE_WITH_CUDA(const cuda::DeviceGuard guard(device_.index);
                 cuda::check(cudaMemsetAsync(data, 0, bytes, queue(stream_)), "setting memory on the GPU");)
  }
}

void Memory::wait() const {
  AE_WITH_CUDA(if (!on_host()) cuda::check(cudaStreamSynchronize(queue(stream_)), "waiting for the GPU");)
}

void Memory::settle() const noexcept { AE_WITH_CUDA(if (!on_host()) cudaStreamSynchronize(queue(stream_)), cudaGetLastError();) }

std::function<void()> Memory::capture([[maybe_unused]] const std::function<void()>& work) const {
#if defined(AIGC_EDGE_CUDA) || defined(AIGC_EDGE_EMULATE_CUDA)
  const cuda::DeviceGuard guard(device_.index);
  const cudaStream_t stream = queue(stream_);
  // Thread-local: what other threads do to the device meanwhile is not our failure.
  cuda::check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "beginning a capture");
  std::exception_ptr raised;
  try {
    work();
  } catch (...) {
    raised = std::current_exception();  // ending a broken capture gives another error, which says less
  }
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream, &graph);
  const std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, cudaError_t (*)(cudaGraph_t)> owner(graph, cudaGraphDestroy);
  if (raised || ended != cudaSuccess) cudaGetLastError();  // so that it does not stick to the next call
  if (raised) std::rethrow_exception(raised);
  cuda::check(ended, "ending a capture");
  cudaGraphExec_t executable = nullptr;
  cuda::check(cudaGraphInstantiateWithFlags(&executable, graph, 0), "making a CUDA graph");
  const std::shared_ptr<std::remove_pointer_t<cudaGraphExec_t>> shared(executable, cudaGraphExecDestroy);
  return [shared, stream] { cuda::check(cudaGraphLaunch(shared.get(), stream), "starting a CUDA graph"); };
#else
  throw Error(kUnsupported, cuda_unavailable());
#endif
}

}  // namespace ae
