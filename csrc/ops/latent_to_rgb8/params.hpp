// Images in floating point, channels first, to bytes, channels last; reference: aigc_edge/ops/latent_to_rgb8.py.
#pragma once

#include <cstdint>

#include "ops/launch.hpp"

namespace ae::ops {

// out = round_half_even(clamp(images * scale + bias, 0, 255)); NaN gives 0.
struct LatentToRgb8Params {
  int64_t samples = 0;            // N
  int64_t channels = 0;           // C
  int64_t height = 0;             // H
  int64_t width = 0;              // W
  const float* images = nullptr;  // [N, C, H, W]
  double scale = 127.5;           // the defaults map [-1, 1] to [0, 255]
  double bias = 127.5;
  uint8_t* out = nullptr;  // [N, H, W, C]
  Launch launch;
};

void latent_to_rgb8(const LatentToRgb8Params& params);

}  // namespace ae::ops
