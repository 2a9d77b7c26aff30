// Host memory that one object owns, aligned for every vector load and for engines; its elements are not initialised.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>

namespace ae {

template <class T>
class Buffer {
  static_assert(std::is_trivial_v<T>, "elements are neither constructed nor destroyed");

 public:
  static constexpr size_t kAlignment = 64;  // bytes

  Buffer() = default;
  // Throws std::bad_alloc.
  explicit Buffer(int64_t size) : size_(size) {
    const size_t bytes = static_cast<size_t>(size) * sizeof(T);
    const size_t padded = (bytes / kAlignment + 1) * kAlignment;  // never 0, for which the address might be null
    data_.reset(static_cast<T*>(std::aligned_alloc(kAlignment, padded)));
    if (!data_) throw std::bad_alloc();
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  int64_t size() const { return size_; }
  T& operator[](int64_t i) { return data_[static_cast<size_t>(i)]; }
  const T& operator[](int64_t i) const { return data_[static_cast<size_t>(i)]; }

  // Gives the memory up; the caller frees it with std::free.
  T* release() {
    size_ = 0;
    return data_.release();
  }

 private:
  struct Free {
    void operator()(T* data) const { std::free(data); }
  };
  std::unique_ptr<T[], Free> data_;
  int64_t size_ = 0;
};

}  // namespace ae
