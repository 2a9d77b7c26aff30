#include "core/error.hpp"
#include "ops/blocks.hpp"
#include "ops/latent_to_rgb8/params.hpp"

namespace ae::ops {

Work check(const LatentToRgb8Params& p) {
  if (p.samples < 0 || p.channels < 0 || p.height < 0 || p.width < 0) {
    throw Error(kInvalidArgument, "latent_to_rgb8: a size is negative");
  }
  const int64_t pixels = p.height * p.width;
  return {p.channels == 0 ? 0 : p.samples * blocks_per_sample(pixels), p.samples * p.channels * pixels * 5};
}

}  // namespace ae::ops
