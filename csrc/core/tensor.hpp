// A non-owning view of a dense tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

namespace ae {

// What ops accept; those from kInt8 on are only named in messages.
enum class DType : uint8_t {
  kFloat32,
  kFloat64,
  kUint8,
  kInt32,
  kInt64,
  kUint32,
  kUint64,
  kFloat16,
  kBfloat16,
  kInt8,
  kInt16,
  kBool,
  kOther,
  kFloating  // in types of parameters: float32, float16 or bfloat16
};

inline const char* name_of(DType dtype) {
  constexpr const char* names[] = {"float32", "float64",  "uint8", "int32", "int64", "uint32",           "uint64",
                                   "float16", "bfloat16", "int8",  "int16", "bool",  "of another dtype", "floating"};
  return names[static_cast<int>(dtype)];
}

inline bool is_floating(DType dtype) { return dtype == DType::kFloat32 || dtype == DType::kFloat16 || dtype == DType::kBfloat16; }

template <class T>
constexpr DType dtype_of() {
  return std::is_same_v<T, float>      ? DType::kFloat32
         : std::is_same_v<T, double>   ? DType::kFloat64
         : std::is_same_v<T, uint8_t>  ? DType::kUint8
         : std::is_same_v<T, int32_t>  ? DType::kInt32
         : std::is_same_v<T, int64_t>  ? DType::kInt64
         : std::is_same_v<T, uint32_t> ? DType::kUint32
         : std::is_same_v<T, uint64_t> ? DType::kUint64
                                       : DType::kOther;
}

struct Device {
  enum Kind : uint8_t { kCpu, kCuda, kOther };
  Kind kind = kCpu;
  int index = 0;

  bool operator==(const Device& other) const { return kind == other.kind && (kind == kCpu || index == other.index); }
  bool operator!=(const Device& other) const { return !(*this == other); }
};

inline std::string name_of(Device device) {
  return device.kind == Device::kCpu    ? "cpu"
         : device.kind == Device::kCuda ? "cuda:" + std::to_string(device.index)
                                        : "another device";
}

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kOther;
  Device device;
  int rank = 0;
  const int64_t* shape = nullptr;    // [rank]
  const int64_t* strides = nullptr;  // [rank], in elements; null: contiguous
  bool read_only = false;

  bool contiguous() const {
    if (!strides) return true;
    int64_t expected = 1;
    bool dense = true;
    for (int i = rank - 1; i >= 0; --i) {
      if (shape[i] == 0) return true;
      if (shape[i] != 1) dense = dense && strides[i] == expected;
      expected *= shape[i];
    }
    return dense;
  }
};

inline std::string shape_text(const int64_t* shape, size_t rank) {
  std::string text = "[";
  for (size_t i = 0; i < rank; ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

}  // namespace ae
