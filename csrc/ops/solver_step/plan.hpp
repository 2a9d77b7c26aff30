// What solver_step computes for every element, worked out once a call and shared by the CPU and the CUDA kernel.
#pragma once

#include <cmath>

#include "core/philox.hpp"
#include "ops/solver_step/params.hpp"

namespace ae::ops {

// The two linear maps, `after` and `before`, are one:
//   slots <- matrix [slots, D] + pull F + noise[0] eps_0 + noise[1] eps_1.
struct SolverStepPlan {
  int32_t slots;                        // S
  int32_t halves;                       // of the network output: 0 (absent), 1 or 2
  int32_t noises;                       // how many of `noise` and `draw` are used
  float guidance, c_skip, c_out, c_in;  //
  float clip_low, clip_high;            // infinite: no clip
  float known_scale, known_noise;
  uint32_t draw[2];
  const float* eps[2];  // [N, E] where the caller gives the noise
  float noise[2][kMaxSlots];
  bool has_pull;
  float pull[kMaxSlots];                   // of F itself
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
  plan.known_scale = static_cast<float>(p.known_scale);
  plan.known_noise = static_cast<float>(p.known_noise);
  plan.clip_low = p.clip_mode == kClipRange ? static_cast<float>(p.clip_low) : -infinity;
  plan.clip_high = p.clip_mode == kClipRange ? static_cast<float>(p.clip_high) : infinity;

  // Column by column, F and the noise being two more: `before` applied to what `after` gives.
  double after_noise[kMaxSlots] = {};
  const auto value = [&](int inner, int column) {
    if (column == slots + 2) return p.after_output ? p.after_output[inner] : 0.0;
    if (column == slots + 1) return p.after_noise ? p.after_noise[inner] : 0.0;
    if (p.after) return p.after[inner * (slots + 1) + column];
    return inner == column ? 1.0 : 0.0;
  };
  for (int column = 0; column <= slots + 2; ++column) {
    for (int row = 0; row < slots; ++row) {
      double sum = p.before ? 0.0 : value(row, column);
      for (int inner = 0; p.before && inner < slots; ++inner) sum += p.before[row * slots + inner] * value(inner, column);
      if (column == slots + 2) {
        plan.pull[row] = static_cast<float>(sum);
        plan.has_pull = plan.has_pull || sum != 0.0;
      } else if (column == slots + 1) {
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
    plan.eps[plan.noises] = i == 0 ? p.after_eps : p.before_eps;
    for (int row = 0; row < slots; ++row) plan.noise[plan.noises][row] = static_cast<float>(sources[i][row]);
    ++plan.noises;
  }
  return plan;
}

// Whether a sample's own statistics change its plan.
AE_FN bool needs_statistics(const SolverStepParams& p) {
  return p.output && ((p.output_halves == 2 && p.rescale != 0.0) || p.clip_mode == kClipDynamic);
}

// Bytes that are read and written, all in float32.
AE_FN int64_t traffic(const SolverStepParams& p) {
  const int64_t streams = 2 * p.slot_count + (p.output ? p.output_halves : 0) + (p.net_input ? p.input_halves : 0);
  return streams * p.samples * p.elements * 4;
}

// Where element e (in the order of the slots) of sample n stands in a half of the network's tensors.
AE_FN int64_t network_index(int64_t elements, int32_t channels, int64_t n, int64_t e) {
  if (channels <= 1) return n * elements + e;
  const int64_t pixels = elements / channels;
  return n * elements + e % pixels * channels + e / pixels;
}

// The network's output with guidance, before it is rescaled.
AE_FN float guided(const SolverStepPlan& plan, float conditional, float unconditional) {
  return unconditional + plan.guidance * (conditional - unconditional);
}

// Takes the gain of guidance rescale into the plan of one sample; Lin et al., "Common Diffusion Noise Schedules and Sample Steps
// are Flawed", WACV 2024, equations 15 and 16. The arguments are sums and sums of squares of F and of the conditional half. An F
// of one value has no deviation but what rounding leaves, of which no ratio is made.
AE_FN void rescale_guidance(SolverStepPlan& plan, double rescale, double count, const double (&sums)[4]) {
  const double all = sums[1] - sums[0] * sums[0] / count, conditional = sums[3] - sums[2] * sums[2] / count;
  const double ratio = all > 1e-12 * sums[1] && conditional >= 0.0 ? sqrt(conditional / all) : 1.0;
  const float gain = static_cast<float>(rescale * ratio + 1.0 - rescale);
  plan.c_out *= gain;
  for (int row = 0; row < plan.slots; ++row) plan.pull[row] *= gain;
}

// Takes dynamic thresholding (Saharia et al., "Imagen", 2022, section 2.3) into the plan of one sample: `bound` is the quantile.
AE_FN void clip_dynamically(SolverStepPlan& plan, double bound, double largest) {
  const float limit = static_cast<float>(bound < 1.0 ? 1.0 : bound > largest ? largest : bound);
  plan.clip_low = -limit;
  plan.clip_high = limit;
  for (int row = 0; row < plan.slots; ++row) plan.matrix[row][plan.slots] /= limit;
}

}  // namespace ae::ops
