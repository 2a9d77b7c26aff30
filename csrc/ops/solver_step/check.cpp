#include <string>

#include "core/error.hpp"
#include "ops/blocks.hpp"
#include "ops/solver_step/params.hpp"

namespace ae::ops {
namespace {

bool any_nonzero(const double* values, int64_t count) {
  for (int64_t i = 0; values && i < count; ++i) {
    if (values[i] != 0.0) return true;
  }
  return false;
}

void require(bool holds, const std::string& message) {
  if (!holds) throw Error(kInvalidArgument, "solver_step: " + message);
}

}  // namespace

Work check(const SolverStepParams& p) {
  require(p.slot_count >= 1 && p.slot_count <= kMaxSlots,
          std::to_string(p.slot_count) + " slots were given: 1 to " + std::to_string(kMaxSlots) + " are allowed");
  require(p.samples >= 0 && p.elements >= 0, "a size is negative");
  require(p.elements <= int64_t{1} << 34, "a sample has more than 2^34 elements, which is all that its noise can number");
  require(!p.output == !p.after, "output and after must both be given (after a row) or both be absent (before row 0)");
  require(p.output_halves == 1 || p.output_halves == 2,
          "output has " + std::to_string(p.output_halves) + " halves: 1 or 2 are allowed");
  require(p.input_halves == 1 || p.input_halves == 2,
          "net_input has " + std::to_string(p.input_halves) + " halves: 1 or 2 are allowed");
  require(p.clip_mode == kClipNone || p.clip_mode == kClipRange,
          "clip_mode is " + std::to_string(p.clip_mode) + ": 0 (none) and 1 (range) are allowed");
  require(p.clip_mode == kClipNone || p.clip_low <= p.clip_high, "clip_low is above clip_high");
  const bool noisy = any_nonzero(p.after_noise, p.slot_count) || any_nonzero(p.before_noise, p.slot_count);
  require(p.seeds || !noisy || p.samples == 0, "noise is asked for and seeds is absent: give one uint64 a sample");
  const int64_t streams = 2 * p.slot_count + (p.output ? p.output_halves : 0) + (p.net_input ? p.input_halves : 0);
  return {p.samples * blocks_per_sample(p.elements), streams * p.samples * p.elements * 4};
}

}  // namespace ae::ops
