// CUDA kernel of latent_to_rgb8: one thread converts four pixels in all their channels.
#pragma once

#include "ops/latent_to_rgb8/params.hpp"
#include "ops/quads.cuh"

namespace ae::ops::cuda {

// Rounds half to even; what is not a number becomes 0.
static __device__ __forceinline__ uint32_t to_byte(float x, float scale, float bias) {
  const float value = x * scale + bias;
  const float positive = value > 0.0f ? value : 0.0f;
  return static_cast<uint32_t>(rintf(positive < 255.0f ? positive : 255.0f));
}

// Channels is the number of channels, or 0 for any. With WholeQuads the four pixels are written as 32-bit words.
template <int Channels, class Access>
__global__ void __launch_bounds__(ae::cuda::kThreads) latent_to_rgb8_kernel(LatentToRgb8Params p, float scale, float bias) {
  const int64_t quad = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t pixels = p.height * p.width, left = pixels - 4 * quad;
  if (left <= 0) return;
  for (int64_t sample = blockIdx.y; sample < p.samples; sample += gridDim.y) {
    const float* const image = p.images + sample * p.channels * pixels + 4 * quad;
    uint8_t* const out = p.out + (sample * pixels + 4 * quad) * p.channels;
    if constexpr (Channels == 0) {
      for (int64_t channel = 0; channel < p.channels; ++channel) {
        const Quad q = Access::load(image + channel * pixels, left);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (i < left) out[i * p.channels + channel] = static_cast<uint8_t>(to_byte(q.v[i], scale, bias));
        }
      }
    } else {
      uint32_t words[Channels] = {};
#pragma unroll
      for (int channel = 0; channel < Channels; ++channel) {
        const Quad q = Access::load(image + channel * pixels, left);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int at = i * Channels + channel;
          words[at / 4] |= to_byte(q.v[i], scale, bias) << (8 * (at % 4));
        }
      }
#pragma unroll
      for (int word = 0; word < Channels; ++word) reinterpret_cast<uint32_t*>(out)[word] = words[word];
    }
  }
}

void latent_to_rgb8(const LatentToRgb8Params& p) {
  const int64_t pixels = p.height * p.width;
  if (p.samples == 0 || pixels == 0 || p.channels == 0) return;
  const ae::cuda::DeviceGuard guard(p.launch.device.index);
  const float scale = static_cast<float>(p.scale), bias = static_cast<float>(p.bias);
  const dim3 grid = quad_grid(p.samples, pixels);
  constexpr int kThreads = ae::cuda::kThreads;
  void* const stream = p.launch.stream;
  const bool whole = pixels % 4 == 0 && ae::cuda::aligned16(p.images) && reinterpret_cast<uintptr_t>(p.out) % 4 == 0;
  if (whole && p.channels == 1) {
    AE_LAUNCH((latent_to_rgb8_kernel<1, WholeQuads>), grid, kThreads, stream, p, scale, bias);
  } else if (whole && p.channels == 3) {
    AE_LAUNCH((latent_to_rgb8_kernel<3, WholeQuads>), grid, kThreads, stream, p, scale, bias);
  } else if (whole && p.channels == 4) {
    AE_LAUNCH((latent_to_rgb8_kernel<4, WholeQuads>), grid, kThreads, stream, p, scale, bias);
  } else {
    AE_LAUNCH((latent_to_rgb8_kernel<0, PartQuads>), grid, kThreads, stream, p, scale, bias);
  }
  ae::cuda::check(cudaGetLastError(), "launching latent_to_rgb8");
}

}  // namespace ae::ops::cuda
