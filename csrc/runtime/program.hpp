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
  double guidance;  // 0 … 1: how much of the guidance scale applies in this row
  bool clip = false;
  double clip_low = 0, clip_high = 0;
  std::vector<double> before;        // [S, S], empty: identity
  std::vector<double> before_noise;  // [S], empty: none
  std::vector<double> after;         // [S, S + 1]
  std::vector<double> after_noise;   // [S], empty: none
};

struct Program {
  std::string name;
  int slots;
  double init_scale;
  double guidance_scale;
  std::vector<Row> rows;
};

// Reads and checks a program (the schema stands in aigc_edge/diffusion/program.py). Throws Error(kBundle) that says what is wrong
// with which number; the caller adds what to do.
Program parse_program(const Json& json, const std::string& path);

}  // namespace ae
