#include "ops/blend_tile/params.hpp"
#include "ops/define_op.hpp"

namespace ae::ops {
namespace {

BlendTileParams bind(Arguments& arguments) {
  BlendTileParams p;
  Size n{"N", p.samples}, c{"C", p.channels}, h{"H", p.height}, w{"W", p.width}, i{"I", p.tile_height}, j{"J", p.tile_width};
  arguments.tensor("tile", p.tile, kIn, {n, c, i, j});
  arguments.tensor("rows", p.rows, kIn, {i});
  arguments.tensor("columns", p.columns, kIn, {j});
  arguments.tensor("image", p.image, kInout, {n, c, h, w});
  arguments.scalar("top", p.top, true);
  arguments.scalar("left", p.left, true);
  return p;
}

Work check(const BlendTileParams& p) {
  if (p.tile_height < 0 || p.tile_width < 0 || p.top + p.tile_height > p.height || p.left + p.tile_width > p.width)
    throw Error(kInvalidArgument, "blend_tile: the tile does not lie within the image");
  const int64_t rows = p.samples * p.channels * p.tile_height;
  return {rows, rows * p.tile_width * 12};
}

}  // namespace

AE_DEFINE_OP(blend_tile, BlendTileParams, AE_CUDA_KERNEL(blend_tile))

}  // namespace ae::ops
