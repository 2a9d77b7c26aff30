// Vectors as wide as the instruction set that the including file is compiled for. Compiler vector types do most of it, so that
// one source serves SSE2, AVX2, AVX-512 and NEON; intrinsics stand only where no operator does.
//
// Everything has internal linkage: the same name compiled for another instruction set must never be merged with it by the linker.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "core/philox.hpp"

namespace ae::simd {
namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
constexpr int kLanes = kBytes / 4;

typedef float F __attribute__((vector_size(kBytes)));
typedef int32_t I __attribute__((vector_size(kBytes)));
typedef uint32_t U __attribute__((vector_size(kBytes)));
typedef uint64_t W __attribute__((vector_size(kBytes)));
typedef float LooseF __attribute__((vector_size(kBytes), aligned(4), may_alias));

AE_FN F load(const float* p) { return *reinterpret_cast<const LooseF*>(p); }
AE_FN void store(float* p, F x) { *reinterpret_cast<LooseF*>(p) = x; }

// Past the caches, to an address that is a multiple of kBytes; `fence` before another thread may read it.
AE_FN void stream(float* p, F x) {
#if defined(__AVX512F__)
  _mm512_stream_ps(p, x);
#elif defined(__AVX2__)
  _mm256_stream_ps(p, x);
#elif defined(__x86_64__)
  _mm_stream_ps(p, x);
#else
  store(p, x);
#endif
}
// How many floats precede the first that `stream` takes.
AE_FN int64_t before_aligned(const float* p) {
  return static_cast<int64_t>((kBytes - reinterpret_cast<uintptr_t>(p) % kBytes) % kBytes / sizeof(float));
}
AE_FN void fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// The first `count` < kLanes lanes; the rest reads as zero.
AE_FN F load_part(const float* p, int64_t count) {
  F x = {};
  std::memcpy(&x, p, static_cast<size_t>(count) * sizeof(float));
  return x;
}
AE_FN void store_part(float* p, F x, int64_t count) { std::memcpy(p, &x, static_cast<size_t>(count) * sizeof(float)); }

AE_FN F splat(float x) { return x - F{}; }  // and not x + F{}, which would turn -0 into 0

// Like NumPy, both keep a NaN that stands in x.
AE_FN F at_least(F x, F low) { return x < low ? low : x; }
AE_FN F at_most(F x, F high) { return x > high ? high : x; }

AE_FN bool any_nan(F x) {
  const I wrong = x != x;
  W folded;
  std::memcpy(&folded, &wrong, sizeof folded);
  uint64_t all = 0;
  for (int i = 0; i < kBytes / 8; ++i) all |= folded[i];
  return all != 0;
}

// a0 b0 a1 b1 … in two vectors.
AE_FN void interleave(F a, F b, F& first, F& second) {
#if defined(__clang__)
#define AE_SHUFFLE(...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define AE_SHUFFLE(...) __builtin_shuffle(a, b, I{__VA_ARGS__})
#endif
#if defined(__AVX512F__)
  first = AE_SHUFFLE(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  second = AE_SHUFFLE(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif defined(__AVX2__)
  first = AE_SHUFFLE(0, 8, 1, 9, 2, 10, 3, 11);
  second = AE_SHUFFLE(4, 12, 5, 13, 6, 14, 7, 15);
#else
  first = AE_SHUFFLE(0, 4, 1, 5);
  second = AE_SHUFFLE(2, 6, 3, 7);
#endif
#undef AE_SHUFFLE
}

// What philox.hpp asks of its lanes.
struct Lanes {
  using F = simd::F;
  using I = simd::I;
  using U = simd::U;
  using W = simd::W;
  AE_FN W product(W a, uint32_t b) {
#if defined(__AVX512F__)
    return (W)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(b));
#elif defined(__AVX2__)
    return (W)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b));
#elif defined(__x86_64__)
    return (W)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(b));
#elif defined(__aarch64__)
    return (W)vmull_n_u32(vmovn_u64((uint64x2_t)a), b);
#else
    return (a & 0xFFFFFFFFu) * uint64_t{b};
#endif
  }
  AE_FN F sqrt(F x) {
#if defined(__AVX512F__)
    return _mm512_sqrt_ps(x);
#elif defined(__AVX2__)
    return _mm256_sqrt_ps(x);
#elif defined(__x86_64__)
    return _mm_sqrt_ps(x);
#elif defined(__aarch64__)
    return vsqrtq_f32(x);
#else
    for (int i = 0; i < kLanes; ++i) x[i] = __builtin_sqrtf(x[i]);
    return x;
#endif
  }
  AE_FN F to_float(U x) { return __builtin_convertvector(x, F); }
  AE_FN F to_float(I x) { return __builtin_convertvector(x, F); }
  AE_FN F select(I mask, F a, F b) { return mask ? a : b; }
  AE_FN U select(I mask, U a, U b) { return mask ? a : b; }
  AE_FN I greater(U a, U b) { return a > b; }
  AE_FN I signed_of(U x) { return (I)x; }
  AE_FN I bits(F x) { return (I)x; }
  AE_FN F from_bits(I x) { return (F)x; }
};

// Normals of the elements first … first + count - 1 of one sample; `first` must be a multiple of 4.
inline void fill_normals(uint64_t seed, uint32_t draw, int64_t first, int64_t count, float* out) {
  const uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  W quad = {};
  for (int i = 0; i < kBytes / 8; ++i) quad[i] = static_cast<uint64_t>(first / 4 + i);
  for (int64_t i = 0; i < count; i += 2 * kLanes, quad += uint64_t{kBytes / 8}) {
    const philox::Words<W> words = philox::rounds<Lanes>(philox::Words<W>{quad, uint64_t{draw} + W{}, W{}, W{}}, key0, key1);
    // Lanes x0 x2 of one counter, then of the next: after interleaving cosine and sine the normals stand in their order.
    const U magnitude = (U)((words.x0 & 0xFFFFFFFFu) | (words.x2 << 32));
    const U angle = (U)((words.x1 & 0xFFFFFFFFu) | (words.x3 << 32));
    F cosine, sine, low, high;
    philox::circle<Lanes>(angle, cosine, sine);
    const F r = philox::radius<Lanes>(magnitude);
    interleave(r * cosine, r * sine, low, high);
    if (count - i >= 2 * kLanes) {
      store(out + i, low);
      store(out + i + kLanes, high);
    } else {
      const int64_t left = count - i;
      store_part(out + i, low, left < kLanes ? left : kLanes);
      if (left > kLanes) store_part(out + i + kLanes, high, left - kLanes);
    }
  }
}

}  // namespace
}  // namespace ae::simd
