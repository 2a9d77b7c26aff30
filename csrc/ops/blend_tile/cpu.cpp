#include "core/isa.hpp"
#include "ops/blend_tile/params.hpp"

namespace ae::ops::AIGC_EDGE_ISA {

// Units are rows of the tiles. The compiler vectorises the inner loop.
void blend_tile(const BlendTileParams& p, int64_t begin, int64_t end) {
  const float* const columns = p.columns;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t plane = row / p.tile_height, i = row % p.tile_height;
    const float* const from = p.tile + row * p.tile_width;
    float* const to = p.image + (plane * p.height + p.top + i) * p.width + p.left;
    const float weight = p.rows[i];
    for (int64_t j = 0; j < p.tile_width; ++j) to[j] += weight * columns[j] * from[j];
  }
}

}  // namespace ae::ops::AIGC_EDGE_ISA
