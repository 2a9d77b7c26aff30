// What solver_step computes for every element, worked out once a call and shared by the CPU and the CUDA kernel.
#pragma once

#include "core/philox.hpp"
#include "ops/solver_step/params.hpp"

namespace ae::ops {

// The two linear maps, `after` and `before`, are one: slots <- matrix [slots, D] + noise[0] eps_0 + noise[1] eps_1.
struct SolverStepPlan {
  int32_t slots;                        // S
  int32_t halves;                       // of the network output: 0 (absent), 1 or 2
  int32_t noises;                       // how many of `noise` and `draw` are used
  float guidance, c_skip, c_out, c_in;  //
  float clip_low, clip_high;            // infinite: no clip
  uint32_t draw[2];
  float noise[2][kMaxSlots];
  float matrix[kMaxSlots][kMaxSlots + 1];  // last column: D
};

AE_FN SolverStepPlan plan_solver_step(const SolverStepParams& p) {
  const int slots = static_cast<int>(p.slot_count);
  const float infinity = __builtin_inff();
  SolverStepPlan plan = {};
  plan.slots = slots;
  plan.halves = p.output ? static_cast<int32_t>(p.output_halves) : 0;
  plan.guidance = static_cast<float>(p.guidance);
  plan.c_skip = static_cast<float>(p.c_skip);
  plan.c_out = static_cast<float>(p.c_out);
  plan.c_in = static_cast<float>(p.c_in);
  plan.clip_low = p.clip_mode == kClipRange ? static_cast<float>(p.clip_low) : -infinity;
  plan.clip_high = p.clip_mode == kClipRange ? static_cast<float>(p.clip_high) : infinity;

  // Column by column, the noise being one more: `before` applied to what `after` gives.
  double after_noise[kMaxSlots] = {};
  for (int column = 0; column <= slots + 1; ++column) {
    for (int row = 0; row < slots; ++row) {
      double sum = 0.0;
      for (int inner = 0; inner < slots; ++inner) {
        double value;
        if (column == slots + 1) {
          value = p.after_noise ? p.after_noise[inner] : 0.0;
        } else if (p.after) {
          value = p.after[inner * (slots + 1) + column];
        } else {
          value = inner == column ? 1.0 : 0.0;
        }
        const double weight = p.before ? p.before[row * slots + inner] : (row == inner ? 1.0 : 0.0);
        sum += weight * value;
      }
      if (column == slots + 1) {
        after_noise[row] = sum;
      } else {
        plan.matrix[row][column] = static_cast<float>(sum);
      }
    }
  }
  const double* const sources[2] = {p.after_noise ? after_noise : nullptr, p.before_noise};
  for (int i = 0; i < 2; ++i) {
    bool any = false;
    for (int row = 0; sources[i] && row < slots; ++row) any = any || sources[i][row] != 0.0;
    if (!any) continue;
    plan.draw[plan.noises] = i == 0 ? p.after_draw : p.before_draw;
    for (int row = 0; row < slots; ++row) plan.noise[plan.noises][row] = static_cast<float>(sources[i][row]);
    ++plan.noises;
  }
  return plan;
}

}  // namespace ae::ops
