// Philox4x32-10 and standard normals: one definition for a CPU's vectors, a CUDA thread and tests.
//
// Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. key = the sample's 64-bit seed, counter = (element / 4,
// draw, 0, 0); the four words give four normals by Box and Muller, element % 4 picks one.
//
// Everything is a template over Lanes: the types of one or many lanes and the few operations that operators do not cover.
//   F float, U uint32_t, I int32_t (equally many lanes), W uint64_t;
//   product(W a, uint32_t b): low 32 bits of a times b, all 64 bits; sqrt(F), to_float(U), to_float(I), signed_of(U) → I;
//   bits(F) → I, from_bits(I) → F; greater(U, U) → I mask; select(I mask, F, F), select(I mask, U, U).
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define AE_FN static __host__ __device__ __forceinline__
#else
#define AE_FN static inline __attribute__((always_inline))
#endif
#if defined(__CUDA_ARCH__)
#define AE_UNROLL _Pragma("unroll")
#elif defined(__CUDACC__)
#define AE_UNROLL  // nvcc's host pass knows neither spelling
#else
#define AE_UNROLL _Pragma("GCC unroll 16")
#endif

namespace ae::philox {

template <class W>
struct Words {  // four 32-bit words in the low halves of 64-bit lanes; what stands in the high halves means nothing
  W x0, x1, x2, x3;
};

// Words stay in 64-bit lanes, because that is where a vector unit's widening product takes and leaves them.
template <class Lanes, class W>
AE_FN Words<W> rounds(Words<W> c, uint32_t key0, uint32_t key1) {
  AE_UNROLL
  for (int round = 0; round < 10; ++round) {
    const W a = Lanes::product(c.x0, 0xD2511F53u);
    const W b = Lanes::product(c.x2, 0xCD9E8D57u);
    c = {(b >> 32) ^ c.x1 ^ uint64_t{key0}, b, (a >> 32) ^ c.x3 ^ uint64_t{key1}, a};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return c;
}

// sqrt(-2 ln u) with u = (x + 0.5) / 2^32. Above 1/sqrt(2) the logarithm is taken of 1 - (1 - u), whose second part integers give
// exactly: without that, u next to 1 would lose all its digits.
template <class Lanes>
AE_FN typename Lanes::F radius(typename Lanes::U x) {
  using F = typename Lanes::F;
  using I = typename Lanes::I;
  const I high = Lanes::greater(x, 0xB504F333u + typename Lanes::U{});
  const F u = (Lanes::to_float(Lanes::select(high, ~x, x)) + 0.5f) * 0x1p-32f;
  // u = 2^exponent * (1 + f), 1 + f in [1/sqrt(2), sqrt(2))
  const I shifted = Lanes::bits(u) + (0x3F800000 - 0x3F3504F3);
  const F mantissa = Lanes::from_bits((shifted & 0x007FFFFF) + 0x3F3504F3);
  const F f = Lanes::select(high, -u, mantissa - 1.0f);
  const F exponent = Lanes::select(high, F{}, Lanes::to_float((shifted >> 23) - 127));
  // Minimax over that interval: ln(1 + f) = f - f^2 / 2 + f^3 p(f) to a tenth of a unit in the last place.
  F p = -7.634497e-2f * f + 1.2761578e-1f;
  p = p * f - 1.3160183e-1f;
  p = p * f + 1.4201757e-1f;
  p = p * f - 1.6623357e-1f;
  p = p * f + 2.0001227e-1f;
  p = p * f - 2.5000820e-1f;
  p = p * f + 3.3333331e-1f;
  const F square = f * f;
  const F log = exponent * 6.9314718e-1f + (f + square * (p * f - 0.5f));
  return Lanes::sqrt(log * -2.0f);
}

// cos and sin of 2 pi (y / 256) / 2^24: the quadrant and the rest are taken from the integer, exactly.
template <class Lanes>
AE_FN void circle(typename Lanes::U y, typename Lanes::F& cosine, typename Lanes::F& sine) {
  using F = typename Lanes::F;
  using I = typename Lanes::I;
  const I n = Lanes::signed_of(y >> 8);
  const I quadrant = (n + 0x200000) >> 22;
  const F t = Lanes::to_float(n - (quadrant << 22)) * 3.7450704e-7f;  // 2 pi / 2^24; in [-pi/4, pi/4]
  const F z = t * t;
  F s = -1.95173e-4f * z + 8.332178e-3f;
  s = s * z - 1.6666655e-1f;
  s = t + t * z * s;
  F c = 2.4438452e-5f * z - 1.3887368e-3f;
  c = c * z + 4.1666646e-2f;
  c = 1.0f + z * (z * c - 0.5f);
  const I swapped = -(quadrant & 1);  // all ones or zero
  const F first = Lanes::select(swapped, s, c);
  const F second = Lanes::select(swapped, c, s);
  cosine = Lanes::from_bits(Lanes::bits(first) ^ (((quadrant + 1) & 2) << 30));
  sine = Lanes::from_bits(Lanes::bits(second) ^ ((quadrant & 2) << 30));
}

// One lane: for CUDA threads and tests.
struct Single {
  using F = float;
  using U = uint32_t;
  using I = int32_t;
  using W = uint64_t;
  AE_FN W product(W a, uint32_t b) { return static_cast<uint64_t>(static_cast<uint32_t>(a)) * b; }
  AE_FN F to_float(U x) { return static_cast<float>(x); }
  AE_FN F to_float(I x) { return static_cast<float>(x); }
  AE_FN F select(I mask, F a, F b) { return mask ? a : b; }
  AE_FN U select(I mask, U a, U b) { return mask ? a : b; }
  AE_FN I greater(U a, U b) { return a > b ? -1 : 0; }
  AE_FN I signed_of(U x) { return static_cast<I>(x); }
  AE_FN I bits(F x) {
    I result;
    __builtin_memcpy(&result, &x, sizeof result);
    return result;
  }
  AE_FN F from_bits(I x) {
    F result;
    __builtin_memcpy(&result, &x, sizeof result);
    return result;
  }
  AE_FN F sqrt(F x) {
#if defined(__CUDA_ARCH__)
    return sqrtf(x);
#else
    return __builtin_sqrtf(x);
#endif
  }
};

// The four normals of elements 4 * quad … 4 * quad + 3.
AE_FN void normals4(uint64_t seed, uint32_t draw, uint32_t quad, float (&z)[4]) {
  const Words<uint64_t> words =
      rounds<Single>(Words<uint64_t>{quad, draw, 0, 0}, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  const uint32_t x[4] = {static_cast<uint32_t>(words.x0), static_cast<uint32_t>(words.x1), static_cast<uint32_t>(words.x2),
                         static_cast<uint32_t>(words.x3)};
  for (int pair = 0; pair < 4; pair += 2) {
    float cosine, sine;
    circle<Single>(x[pair + 1], cosine, sine);
    const float r = radius<Single>(x[pair]);
    z[pair] = r * cosine;
    z[pair + 1] = r * sine;
  }
}

}  // namespace ae::philox
