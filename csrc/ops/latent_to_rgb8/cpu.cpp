#include "core/simd.hpp"
#include "ops/blocks.hpp"
#include "ops/latent_to_rgb8/params.hpp"

namespace ae::ops::AIGC_EDGE_ISA {
namespace {

using simd::F;
using simd::kBytes;
using simd::kLanes;
using simd::U;

// Rounds half to even by pushing the fraction out of the mantissa; what is not a number becomes 0.
AE_FN U to_byte(F x, float scale, float bias) {
  const F value = x * scale + bias;
  const F positive = value > 0.0f ? value : F{};
  const F clamped = simd::at_most(positive, simd::splat(255.0f));
  return (U)(clamped + 0x1p23f) & 0xFFu;
}

typedef uint8_t Bytes __attribute__((vector_size(16)));

// Writes `count` pixels of `Channels` bytes that stand in the low bytes of the lanes; one store a pixel, or one for four pixels
// of three bytes. A store may spill into the next pixels: `room` is how many bytes from `out` on may be written.
template <int Channels>
AE_FN void store_pixels(uint8_t* out, const U& pixels, int64_t count, int64_t room) {
  uint32_t lanes[kLanes];
  std::memcpy(lanes, &pixels, kBytes);
  if (Channels == 3 && count == kLanes && room >= 3 * kLanes + 4) {
#if defined(__SSSE3__) || defined(__aarch64__)
    for (int i = 0; i < kLanes; i += 4) {
      Bytes four;
      std::memcpy(&four, lanes + i, 16);
#if defined(__clang__)
      four = __builtin_shufflevector(four, four, 0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 3, 3, 3, 3);
#else
      four = __builtin_shuffle(four, Bytes{0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 3, 3, 3, 3});
#endif
      std::memcpy(out + 3 * i, &four, 16);
    }
#else
    for (int i = 0; i < kLanes; ++i) std::memcpy(out + 3 * i, lanes + i, 4);
#endif
    return;
  }
  for (int64_t i = 0; i < count; ++i) std::memcpy(out + Channels * i, lanes + i, Channels);
}

template <int Channels>
void convert(const float* image, int64_t plane, int64_t count, float scale, float bias, uint8_t* out) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t now = count - i < kLanes ? count - i : kLanes;
    U pixels = {};
    AE_UNROLL
    for (int channel = 0; channel < Channels; ++channel) {
      const float* const from = image + channel * plane + i;
      pixels |= to_byte(now == kLanes ? simd::load(from) : simd::load_part(from, now), scale, bias) << (8 * channel);
    }
    store_pixels<Channels>(out + Channels * i, pixels, now, Channels * (count - i));
  }
}

// One channel of many: bytes that lie `stride` apart.
void convert_strided(const float* plane, int64_t count, float scale, float bias, uint8_t* out, int64_t stride) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t now = count - i < kLanes ? count - i : kLanes;
    const U bytes = to_byte(now == kLanes ? simd::load(plane + i) : simd::load_part(plane + i, now), scale, bias);
    for (int64_t lane = 0; lane < now; ++lane) out[(i + lane) * stride] = static_cast<uint8_t>(bytes[lane]);
  }
}

}  // namespace

void latent_to_rgb8(const LatentToRgb8Params& p, int64_t begin, int64_t end) {
  const int64_t pixels = p.height * p.width;
  const float scale = static_cast<float>(p.scale), bias = static_cast<float>(p.bias);
  for_each_block(begin, end, pixels, [&](int64_t sample, int64_t first, int64_t count) {
    const float* const image = p.images + sample * p.channels * pixels + first;
    uint8_t* const out = p.out + (sample * pixels + first) * p.channels;
    switch (p.channels) {
      case 1:
        return convert<1>(image, pixels, count, scale, bias, out);
      case 2:
        return convert<2>(image, pixels, count, scale, bias, out);
      case 3:
        return convert<3>(image, pixels, count, scale, bias, out);
      case 4:
        return convert<4>(image, pixels, count, scale, bias, out);
      default:
        for (int64_t channel = 0; channel < p.channels; ++channel) {
          convert_strided(image + channel * pixels, count, scale, bias, out + channel, p.channels);
        }
    }
  });
}

}  // namespace ae::ops::AIGC_EDGE_ISA
