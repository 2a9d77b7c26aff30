// A tile cut out of images, for a network that takes a part of them at once; reference: aigc_edge/ops/cut_tile.py.
#pragma once

#include <cstdint>

#include "ops/launch.hpp"

namespace ae::ops {

// tile[n, c, i, j] = image[n, c, top + i, left + j]
struct CutTileParams {
  int64_t samples = 0, channels = 0;        // N, C
  int64_t height = 0, width = 0;            // H, W: of the images
  int64_t tile_height = 0, tile_width = 0;  // I, J
  const float* image = nullptr;             // [N, C, H, W]
  float* tile = nullptr;                    // [N, C, I, J]
  uint32_t top = 0, left = 0;
  Launch launch;
};

void cut_tile(const CutTileParams& params);

}  // namespace ae::ops
