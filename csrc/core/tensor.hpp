// A view of a dense tensor that somebody else owns.
#pragma once

#include <cstdint>
#include <string>

namespace ae {

// What ops may take, and from kInt8 on what is known by name alone, for messages.
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
  kFloating  // in signatures alone: float32, float16 or bfloat16
};

inline const char* name_of(DType dtype) {
  constexpr const char* names[] = {"float32", "float64",  "uint8", "int32", "int64", "uint32",           "uint64",
                                   "float16", "bfloat16", "int8",  "int16", "bool",  "of another dtype", "floating"};
  return names[static_cast<int>(dtype)];
}

inline bool is_floating(DType dtype) { return dtype == DType::kFloat32 || dtype == DType::kFloat16 || dtype == DType::kBfloat16; }

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kFloat32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::kFloat64;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::kUint8;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::kInt32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::kInt64;
};
template <>
struct DTypeOf<uint32_t> {
  static constexpr DType value = DType::kUint32;
};
template <>
struct DTypeOf<uint64_t> {
  static constexpr DType value = DType::kUint64;
};

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

inline std::string shape_of(const Tensor& tensor) {
  std::string text = "[";
  for (int i = 0; i < tensor.rank; ++i) text += (i ? ", " : "") + std::to_string(tensor.shape[i]);
  return text + "]";
}

}  // namespace ae
