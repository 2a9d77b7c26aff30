// Weighted tiles added into images, which overlapping tiles make up together; reference: aigc_edge/ops/blend_tile.py.
#pragma once

#include <cstdint>

#include "ops/launch.hpp"

namespace ae::ops {

// image[n, c, top + i, left + j] += rows[i] * columns[j] * tile[n, c, i, j]
struct BlendTileParams {
  int64_t samples = 0, channels = 0;        // N, C
  int64_t height = 0, width = 0;            // H, W: of the images
  int64_t tile_height = 0, tile_width = 0;  // I, J
  const float* tile = nullptr;              // [N, C, I, J]
  const float* rows = nullptr;              // [I]
  const float* columns = nullptr;           // [J]
  float* image = nullptr;                   // [N, C, H, W]
  uint32_t top = 0, left = 0;
  Launch launch;
};

void blend_tile(const BlendTileParams& params);

}  // namespace ae::ops
