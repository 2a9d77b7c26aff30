// Standard normal numbers, keyed by each sample's own seed; reference and definition: aigc_edge/ops/randn.py.
#pragma once

#include <cstdint>

#include "ops/launch.hpp"

namespace ae::ops {

struct RandnParams {
  int64_t samples = 0;              // N
  int64_t elements = 0;             // E, of one sample
  const uint64_t* seeds = nullptr;  // [N]
  uint32_t draw = 0;                // which of a sample's independent streams; the latents are draw 0
  float* out = nullptr;             // [N, E]
  Launch launch;
};

// One list of the fields, in the order of the reference's parameters: signature, binding and checks follow from it.
template <class Visitor>
void fields(Visitor& v, RandnParams& p) {
  v.in("seeds", p.seeds, {"N"});
  v.scalar("draw", p.draw);
  v.out("out", p.out, {"N", "E"});
  v.size("N", p.samples);
  v.size("E", p.elements);
}

void randn(const RandnParams& params);  // on the CPU

}  // namespace ae::ops
