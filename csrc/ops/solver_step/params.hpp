// All that happens between two network evaluations; reference and definition: aigc_edge/ops/solver_step.py.
#pragma once

#include <cstdint>

#include "core/tensor.hpp"
#include "ops/launch.hpp"

namespace ae::ops {

constexpr int kMaxSlots = 8;

enum ClipMode : int32_t { kClipNone = 0, kClipRange = 1, kClipDynamic = 2 };

// The end of row r, the beginning of row r + 1 and the network input of row r + 1, in one pass over memory:
//   F = output[1] + w (output[0] - output[1])  or  output[0]; F *= rescale std(output[0]) / std(F) + 1 - rescale
//   R = c_skip slots[0] + c_out F, D = clip(R)
//   slots <- after [slots, D] + after_output F + after_noise eps(after_draw)
//   slots <- before slots + before_noise eps(before_draw)
//   slots[0] <- mask slots[0] + (1 - mask) (known_scale known + known_noise known_eps)
//   net_input = c_in slots[0], `input_halves` times
// Before row 0 `output` and `after` are null and the first three lines do not apply; after the last row `net_input` is null.
// Coefficients are double, as in the bundle; each is rounded to float once. Slots are the outermost dimension, so that slot 0 is
// a batch of its own: latents, decoder input and image without a copy.
struct SolverStepParams {
  int64_t samples = 0;     // N
  int64_t elements = 0;    // E, of one sample
  int64_t slot_count = 0;  // S, 1 … kMaxSlots
  float* slots = nullptr;  // [S, N, E] inout

  // The network's own tensors: in its dtype, elements in the order of the slots, or with `channels` > 1 its channels last.
  const void* output = nullptr;  // [output_halves, N, E] the network's, conditional half first; or null
  DType output_dtype = DType::kFloat32;
  int64_t output_halves = 1;  // 1 or 2
  int32_t channels = 0;       // of a network with channels last: element c P + p of a slot is element p C + c, P = E / C
  double guidance = 1.0;      // w; used with two halves
  double rescale = 0.0;       // 0 … 1; used with two halves
  double c_skip = 0.0;
  double c_out = 1.0;
  int32_t clip_mode = kClipNone;
  double clip_low = -1.0;                // kClipDynamic: the quantile, 0 … 1, of the sample's |R| that bounds D …
  double clip_high = 1.0;                // … within 1 … clip_high; D is then divided by the bound
  const double* after = nullptr;         // [S, S + 1]; null exactly when output is
  const double* after_output = nullptr;  // [S], or null: zeros
  const double* after_noise = nullptr;   // [S], or null: none
  uint32_t after_draw = 0;
  const float* after_eps = nullptr;  // [N, E] the noise itself, or null: drawn from the seeds

  const double* before = nullptr;        // [S, S], or null: identity
  const double* before_noise = nullptr;  // [S], or null: none
  uint32_t before_draw = 0;
  const float* before_eps = nullptr;  // [N, E], or null: drawn from the seeds

  const float* mask = nullptr;       // [N, E] 1 where the sample is generated, 0 where it is known; or null
  const float* known = nullptr;      // [N, E]; null exactly when mask is
  const float* known_eps = nullptr;  // [N, E]; read when known_noise is not 0
  double known_scale = 1.0;
  double known_noise = 0.0;

  double c_in = 1.0;
  void* net_input = nullptr;  // [input_halves, N, E], or null
  DType input_dtype = DType::kFloat32;
  int64_t input_halves = 1;  // 1 or 2

  const uint64_t* seeds = nullptr;  // [N]; may be null when nothing draws noise
  int32_t* nonfinite = nullptr;     // [N] inout: 0 becomes `mark` where F, R or a new slot is not finite; or null
  int32_t mark = 1;
  Launch launch;
};

void solver_step(const SolverStepParams& params);

}  // namespace ae::ops
