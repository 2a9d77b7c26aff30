// A sampling program: the solver, the schedule and the guidance of one sampler, as rows of numbers.
#pragma once

#include <string>
#include <vector>

#include "core/json.hpp"
#include "ops/solver_step/params.hpp"

namespace ae {

constexpr int kMaxRows = 10000;
constexpr int kProgramVersion = 1;

// One network evaluation and the arithmetic around it; the slots are s_0 … s_{S-1}, D is the denoised sample.
struct Row {
  double timestep;
  double c_in, c_skip, c_out;
  double guidance = 1.0;  // 0 … 1: how much of the guidance scale applies in this row
  ops::ClipMode clip = ops::kClipNone;
  double clip_low = 0, clip_high = 0;  // dynamic: the quantile and the largest bound
  bool has_level = false;
  double level[2] = {};              // alpha and sigma: the network sees c_in (alpha x0 + sigma eps)
  std::vector<double> before;        // [S, S], empty: identity
  std::vector<double> before_noise;  // [S], empty: none
  std::vector<double> after;         // [S, S + 1]
  std::vector<double> after_output;  // [S], empty: zeros
  std::vector<double> after_noise;   // [S], empty: none

  // The guidance weight w of the row at a guidance scale: 1 is no guidance.
  double weight(double scale) const { return 1.0 + guidance * (scale - 1.0); }
};

struct Program {
  std::string name;
  int slots;
  double init_scale;
  double guidance_scale;
  double guidance_rescale = 0;
  std::vector<Row> rows;

  size_t draws() const {  // how often the rows add noise
    size_t count = 0;
    for (const Row& row : rows) count += !row.before_noise.empty() + !row.after_noise.empty();
    return count;
  }
};

// Reads and checks a program (the schema stands in aigc_edge/diffusion/program.py). Throws Error(kBundle) that names the member
// that is wrong; the caller adds what to do.
Program parse_program(const Json& json);

}  // namespace ae
