#include "ops/define_op.hpp"
#include "ops/latent_to_rgb8/params.hpp"

namespace ae::ops {
namespace {

LatentToRgb8Params bind(Arguments& arguments) {
  LatentToRgb8Params p;
  Size n{"N", p.samples}, c{"C", p.channels}, h{"H", p.height}, w{"W", p.width};
  arguments.tensor("images", p.images, kIn, {n, c, h, w});
  arguments.tensor("out", p.out, kOut, {n, h, w, c});
  arguments.scalar("scale", p.scale);
  arguments.scalar("bias", p.bias);
  return p;
}

Work check(const LatentToRgb8Params& p) {
  if (p.samples < 0 || p.channels < 0 || p.height < 0 || p.width < 0) {
    throw Error(kInvalidArgument, "latent_to_rgb8: a size is negative");
  }
  const int64_t pixels = p.height * p.width;
  return {p.channels == 0 ? 0 : p.samples * blocks_per_sample(pixels), p.samples * p.channels * pixels * 5};
}

}  // namespace

AE_DEFINE_OP(latent_to_rgb8, LatentToRgb8Params, AE_CUDA_KERNEL(latent_to_rgb8))

}  // namespace ae::ops
