#include "core/simd.hpp"
#include "ops/blocks.hpp"
#include "ops/randn/params.hpp"

namespace ae::ops::AIGC_EDGE_ISA {

void randn(const RandnParams& p, int64_t begin, int64_t end) {
  for_each_block(begin, end, p.elements, [&](int64_t sample, int64_t first, int64_t count) {
    simd::fill_normals(p.seeds[sample], p.draw, first, count, p.out + sample * p.elements + first);
  });
}

}  // namespace ae::ops::AIGC_EDGE_ISA
