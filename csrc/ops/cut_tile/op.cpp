#include "ops/cut_tile/params.hpp"
#include "ops/define_op.hpp"

namespace ae::ops {
namespace {

CutTileParams bind(Arguments& arguments) {
  CutTileParams p;
  Size n{"N", p.samples}, c{"C", p.channels}, h{"H", p.height}, w{"W", p.width}, i{"I", p.tile_height}, j{"J", p.tile_width};
  arguments.tensor("image", p.image, kIn, {n, c, h, w});
  arguments.tensor("tile", p.tile, kOut, {n, c, i, j});
  arguments.scalar("top", p.top, true);
  arguments.scalar("left", p.left, true);
  return p;
}

Work check(const CutTileParams& p) {
  if (p.tile_height < 0 || p.tile_width < 0 || p.top + p.tile_height > p.height || p.left + p.tile_width > p.width)
    throw Error(kInvalidArgument, "cut_tile: the tile does not lie within the image");
  const int64_t rows = p.samples * p.channels * p.tile_height;
  return {rows, rows * p.tile_width * 8};
}

}  // namespace

AE_DEFINE_OP(cut_tile, CutTileParams, AE_CUDA_KERNEL(cut_tile))

}  // namespace ae::ops
