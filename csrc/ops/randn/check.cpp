#include "core/error.hpp"
#include "ops/blocks.hpp"
#include "ops/randn/params.hpp"

namespace ae::ops {

Work check(const RandnParams& p) {
  if (p.samples < 0 || p.elements < 0) throw Error(kInvalidArgument, "randn: a size is negative");
  if (p.elements > int64_t{1} << 34)
    throw Error(kInvalidArgument, "randn: a sample has more than 2^34 elements, which is all that can be numbered");
  return {p.samples * blocks_per_sample(p.elements), p.samples * p.elements * 4};
}

}  // namespace ae::ops
