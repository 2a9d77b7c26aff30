#include <cstring>

#include "core/isa.hpp"
#include "ops/cut_tile/params.hpp"

namespace ae::ops::AIGC_EDGE_ISA {

// Units are rows of the tiles.
void cut_tile(const CutTileParams& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t plane = row / p.tile_height, i = row % p.tile_height;
    std::memcpy(p.tile + row * p.tile_width, p.image + (plane * p.height + p.top + i) * p.width + p.left,
                static_cast<size_t>(p.tile_width) * sizeof(float));
  }
}

}  // namespace ae::ops::AIGC_EDGE_ISA
