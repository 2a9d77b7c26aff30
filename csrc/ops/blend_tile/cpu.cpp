#include "core/simd.hpp"
#include "ops/blend_tile/params.hpp"

namespace ae::ops::AIGC_EDGE_ISA {

using simd::kLanes;

// Units are rows of the tiles.
void blend_tile(const BlendTileParams& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t plane = row / p.tile_height, i = row % p.tile_height;
    const float* const from = p.tile + row * p.tile_width;
    float* const to = p.image + (plane * p.height + p.top + i) * p.width + p.left;
    const float weight = p.rows[i];
    int64_t j = 0;
    for (; j + kLanes <= p.tile_width; j += kLanes) {
      const simd::F added = weight * simd::load(p.columns + j) * simd::load(from + j);
      simd::store(to + j, simd::load(to + j) + added);
    }
    if (const int64_t rest = p.tile_width - j) {
      const simd::F added = weight * simd::load_part(p.columns + j, rest) * simd::load_part(from + j, rest);
      simd::store_part(to + j, simd::load_part(to + j, rest) + added, rest);
    }
  }
}

}  // namespace ae::ops::AIGC_EDGE_ISA
