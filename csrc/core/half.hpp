// float16 and bfloat16 as bits, rounded to nearest even; for a CPU's scalar code, a CUDA thread and tests.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/philox.hpp"
#include "core/tensor.hpp"

#if defined(__CUDA_ARCH__)
#include <cuda_fp16.h>
#endif

namespace ae {

AE_FN uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
AE_FN float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

AE_FN float from_bfloat16(uint16_t bits) { return float_of(static_cast<uint32_t>(bits) << 16); }
AE_FN uint16_t to_bfloat16(float x) {
  const uint32_t bits = bits_of(x);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);  // a NaN stays one
  return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

#if defined(__CUDA_ARCH__)
AE_FN float from_float16(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
AE_FN uint16_t to_float16(float x) { return __half_as_ushort(__float2half_rn(x)); }
#else
AE_FN float from_float16(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000u) << 16, rest = bits & 0x7FFFu;
  if (rest >= 0x7C00u) return float_of(sign | 0x7F800000u | (rest & 0x3FFu) << 13);
  if (rest < 0x400u) return float_of(sign | bits_of(static_cast<float>(rest) * 0x1p-24f));
  return float_of(sign | ((rest << 13) + 0x38000000u));
}
AE_FN uint16_t to_float16(float x) {
  const uint32_t bits = bits_of(x), size = bits & 0x7FFFFFFFu;
  uint32_t half;
  if (size >= 0x47800000u) {  // 2^16 and more
    half = size > 0x7F800000u ? 0x7E00u : 0x7C00u;
  } else if (size < 0x38800000u) {  // below 2^-14: the sum's last bit is 2^-24, and the adder rounds
    half = bits_of(float_of(size) + 0.5f) - 0x3F000000u;
  } else {
    half = (size - 0x38000000u + 0xFFFu + (size >> 13 & 1u)) >> 13;
  }
  return static_cast<uint16_t>(bits >> 16 & 0x8000u) | static_cast<uint16_t>(half);
}
#endif

AE_FN float read_as(const void* data, DType dtype, int64_t index) {
  if (dtype == DType::kFloat32) return static_cast<const float*>(data)[index];
  const uint16_t bits = static_cast<const uint16_t*>(data)[index];
  return dtype == DType::kFloat16 ? from_float16(bits) : from_bfloat16(bits);
}
AE_FN void write_as(void* data, DType dtype, int64_t index, float x) {
  if (dtype == DType::kFloat32) {
    static_cast<float*>(data)[index] = x;
  } else {
    static_cast<uint16_t*>(data)[index] = dtype == DType::kFloat16 ? to_float16(x) : to_bfloat16(x);
  }
}

}  // namespace ae
