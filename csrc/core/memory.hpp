// Where buffers are and what is queued there: memory of the host or of a GPU. Nothing else knows the two apart.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "core/tensor.hpp"

namespace ae {

// A caller's own allocator; `allocate` null: the library's. It returns null when memory ran out.
struct Allocator {
  void* user = nullptr;
  void* (*allocate)(void* user, size_t bytes, int32_t device, void* stream) = nullptr;
  void (*free)(void* user, void* data, int32_t device, void* stream) = nullptr;
};

class Memory {
 public:
  Memory() = default;  // of the host
  // `stream` null: one of its own, on a GPU. Throws Error(kUnsupported) where there is no such device.
  Memory(Device::Kind kind, void* stream, const Allocator& allocator);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  static const Memory& host();

  bool on_host() const { return device_.kind == Device::kCpu; }
  Device device() const { return device_; }
  void* stream() const { return stream_; }  // null on the host

  void* allocate(size_t bytes) const;  // aligned for vector loads and engines, not initialised; throws std::bad_alloc
  void free(void* data) const;

  // All are queued on the stream; on the host they are done at once. `upload` has read host memory when it returns, and writes
  // `times` copies one after the other; host memory of `download` is complete after `wait`.
  void upload(void* to, const void* from, size_t bytes, int64_t times = 1) const;
  void download(void* to, const void* from, size_t bytes) const;
  void copy(void* to, const void* from, size_t bytes) const;  // within this memory
  void zero(void* data, size_t bytes) const;
  void wait() const;
  void settle() const noexcept;  // the same after a failure, which CUDA then forgets

  // What `work` queues, as one CUDA graph: the returned function queues all of it again. Throws Error where it cannot be
  // captured, and whatever `work` throws.
  std::function<void()> capture(const std::function<void()>& work) const;

 private:
  void transfer(void* to, const void* from, size_t bytes, int direction) const;

  Device device_;
  void* stream_ = nullptr;
  bool own_stream_ = false;
  Allocator allocator_;
};

}  // namespace ae
