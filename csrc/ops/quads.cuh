// Four neighbouring elements of a sample, which is what one CUDA thread works on.
#pragma once

#include "core/cuda.cuh"
#include "core/half.hpp"

namespace ae::ops {

struct Quad {
  float v[4];
};

// The two ways to memory: one access of 16 bytes, where every quad of the call is whole and aligned, or up to four of 4 bytes.
struct WholeQuads {
  static __device__ __forceinline__ Quad load(const float* p, int64_t) {
    const float4 x = *reinterpret_cast<const float4*>(p);
    return {{x.x, x.y, x.z, x.w}};
  }
  static __device__ __forceinline__ void store(float* p, const Quad& q, int64_t) {
    *reinterpret_cast<float4*>(p) = make_float4(q.v[0], q.v[1], q.v[2], q.v[3]);
  }
  // Elements of a floating dtype, of which `first` is the first.
  template <DType kDType>
  static __device__ __forceinline__ Quad load_as(const void* p, int64_t first, int64_t left) {
    if constexpr (kDType == DType::kFloat32) {
      return load(static_cast<const float*>(p) + first, left);
    } else {
      const Bits x = *reinterpret_cast<const Bits*>(static_cast<const uint16_t*>(p) + first);
      Quad q;
#pragma unroll
      for (int i = 0; i < 4; ++i) q.v[i] = kDType == DType::kFloat16 ? from_float16(x.v[i]) : from_bfloat16(x.v[i]);
      return q;
    }
  }
  template <DType kDType>
  static __device__ __forceinline__ void store_as(void* p, int64_t first, const Quad& q, int64_t left) {
    if constexpr (kDType == DType::kFloat32) {
      store(static_cast<float*>(p) + first, q, left);
    } else {
      Bits x;
#pragma unroll
      for (int i = 0; i < 4; ++i) x.v[i] = kDType == DType::kFloat16 ? to_float16(q.v[i]) : to_bfloat16(q.v[i]);
      *reinterpret_cast<Bits*>(static_cast<uint16_t*>(p) + first) = x;
    }
  }

 private:
  struct alignas(8) Bits {
    uint16_t v[4];
  };
};
struct PartQuads {
  static __device__ __forceinline__ Quad load(const float* p, int64_t left) {
    Quad q;
#pragma unroll
    for (int i = 0; i < 4; ++i) q.v[i] = i < left ? p[i] : 0.0f;
    return q;
  }
  static __device__ __forceinline__ void store(float* p, const Quad& q, int64_t left) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < left) p[i] = q.v[i];
    }
  }
};

// x counts a sample's quads, y the samples, of which a thread may get several.
inline dim3 quad_grid(int64_t samples, int64_t elements) {
  const int64_t blocks = ae::cuda::divide_up(ae::cuda::divide_up(elements, 4), ae::cuda::kThreads);
  return dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(std::min(samples, ae::cuda::kMaxGridY)));
}

}  // namespace ae::ops
