#include "ops/define_op.hpp"
#include "ops/randn/params.hpp"

namespace ae::ops {
namespace {

RandnParams bind(Arguments& arguments) {
  RandnParams p;
  Size n{"N", p.samples}, e{"E", p.elements};
  arguments.tensor("seeds", p.seeds, kIn, {n});
  arguments.scalar("draw", p.draw, /*required=*/true);
  arguments.tensor("out", p.out, kOut, {n, e});
  return p;
}

Work check(const RandnParams& p) {
  if (p.samples < 0 || p.elements < 0) throw Error(kInvalidArgument, "randn: a size is negative");
  if (p.elements > int64_t{1} << 34)
    throw Error(kInvalidArgument, "randn: a sample has more than 2^34 elements, which is all that can be numbered");
  return {p.samples * blocks_per_sample(p.elements), p.samples * p.elements * 4};
}

}  // namespace

AE_DEFINE_OP(randn, RandnParams, AE_CUDA_KERNEL(randn))

}  // namespace ae::ops
