// Memory that one object owns, of the host or of a device; its elements are not initialised.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>

#include "core/memory.hpp"

namespace ae {

template <class T>
class Buffer {
  static_assert(std::is_trivial_v<T>, "elements are neither constructed nor destroyed");

 public:
  Buffer() = default;
  // The memory must live as long. Throws std::bad_alloc.
  explicit Buffer(int64_t size, const Memory& memory = Memory::host())
      : data_(static_cast<T*>(memory.allocate(static_cast<size_t>(size) * sizeof(T))), Free{&memory}), size_(size) {}

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  int64_t size() const { return size_; }
  // Of a buffer in host memory.
  T& operator[](int64_t i) { return data_[static_cast<size_t>(i)]; }
  const T& operator[](int64_t i) const { return data_[static_cast<size_t>(i)]; }

  // Gives the memory up; the caller frees it, std::free that of the host.
  T* release() {
    size_ = 0;
    return data_.release();
  }

 private:
  struct Free {
    const Memory* memory = nullptr;
    void operator()(T* data) const { memory->free(data); }
  };
  std::unique_ptr<T[], Free> data_;
  int64_t size_ = 0;
};

}  // namespace ae
