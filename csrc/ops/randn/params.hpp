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

void randn(const RandnParams& params);

}  // namespace ae::ops
