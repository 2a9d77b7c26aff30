// The network's tensors as a CPU kernel sees them: in its own dtype and layout, read and written tile by tile in the order of the
// slots.
//
// Internal linkage: the including file is compiled once an instruction set.
#pragma once

#include "core/half.hpp"
#include "ops/solver_step/plan.hpp"

namespace ae::ops {
namespace {

class NetworkOutput {
 public:
  explicit NetworkOutput(const SolverStepParams& p) : p_(p) {}

  bool converted() const { return p_.output && (p_.output_dtype != DType::kFloat32 || p_.channels > 1); }

  float read(int half, int64_t sample, int64_t e) const {
    const int64_t from = half * p_.samples * p_.elements + network_index(p_.elements, p_.channels, sample, e);
    return read_as(p_.output, p_.output_dtype, from);
  }

  // `size` elements of one half in float32: where they stand, or what `room` then holds.
  const float* tile(int half, int64_t sample, int64_t at, int64_t size, float* room) const {
    if (!converted()) return static_cast<const float*>(p_.output) + (half * p_.samples + sample) * p_.elements + at;
    for (int64_t i = 0; i < size; ++i) room[i] = read(half, sample, at + i);
    return room;
  }

  // |R| of one element, as bits: they are ordered like the numbers.
  uint32_t bits_of_denoised(const SolverStepPlan& plan, int64_t sample, int64_t e) const {
    const float conditional = read(0, sample, e);
    const float f = plan.halves == 2 ? guided(plan, conditional, read(1, sample, e)) : conditional;
    return bits_of(plan.c_skip * p_.slots[sample * p_.elements + e] + plan.c_out * f) & 0x7FFFFFFFu;
  }

 private:
  const SolverStepParams& p_;
};

class NetworkInput {
 public:
  explicit NetworkInput(const SolverStepParams& p) : p_(p) {}

  bool converted() const { return p_.net_input && (p_.input_dtype != DType::kFloat32 || p_.channels > 1); }

  float* plain(int half) const { return static_cast<float*>(p_.net_input) + half * p_.samples * p_.elements; }

  void store(const float* tile, int64_t sample, int64_t at, int64_t size) const {
    for (int half = 0; half < p_.input_halves; ++half) {
      const int64_t start = half * p_.samples * p_.elements;
      for (int64_t i = 0; i < size; ++i) {
        write_as(p_.net_input, p_.input_dtype, start + network_index(p_.elements, p_.channels, sample, at + i), tile[i]);
      }
    }
  }

 private:
  const SolverStepParams& p_;
};

}  // namespace
}  // namespace ae::ops
