#include "runtime/rows.hpp"

#include <algorithm>
#include <utility>

#include "core/error.hpp"

namespace ae {
namespace {

const double* or_null(const std::vector<double>& values) { return values.empty() ? nullptr : values.data(); }

}  // namespace

Rows::Rows(const Program& program, const RowOptions& options) : program_(program), options_(options) {
  const auto slots = static_cast<size_t>(program_.slots);
  first_before_.assign(slots * slots, 0.0);
  for (size_t i = 0; i < slots; ++i) first_before_[i * slots + i] = 1.0;
  if (size() > 0 && !program_.rows[0].before.empty()) first_before_ = program_.rows[0].before;
  for (size_t i = 0; i < slots; ++i) first_before_[i * slots] *= program_.init_scale;
}

int Rows::max_halves() const {
  int most = 1;
  for (size_t r = 0; r < size(); ++r) most = std::max(most, halves(r));
  return most;
}

void Rows::prepare(size_t r, ops::SolverStepParams& p) const {
  const RowBuffers& b = buffers_;
  p.samples = b.samples;
  p.elements = b.elements;
  p.slot_count = program_.slots;
  p.slots = b.slots;
  p.seeds = b.seeds;
  p.nonfinite = b.nonfinite;
  p.mark = static_cast<int32_t>(r);
  p.channels = b.channels;
  p.input_dtype = p.output_dtype = b.dtype;
  if (r > 0) {
    const Row& row = program_.rows[r - 1];
    p.output_halves = halves(r - 1);
    p.guidance = weight(r - 1);
    p.rescale = p.output_halves == 2 ? options_.guidance_rescale : 0.0;
    p.c_skip = row.c_skip;
    p.c_out = row.c_out;
    p.clip_mode = row.clip;
    p.clip_low = row.clip_low;
    p.clip_high = row.clip_high;
    p.after = row.after.data();
    p.after_output = or_null(row.after_output);
    p.after_noise = or_null(row.after_noise);
    p.after_draw = static_cast<uint32_t>(2 * r);
  }
  if (r < size()) {
    const Row& row = program_.rows[r];
    p.before = or_null(row.before);
    p.before_noise = or_null(row.before_noise);
    p.before_draw = static_cast<uint32_t>(2 * r + 1);
    p.c_in = row.c_in;
    p.net_input = b.net_input;
    p.input_halves = halves(r);
  }
  if (r == 0) p.before = first_before_.data();
  if (b.mask != nullptr && size() > 0) {
    p.mask = b.mask;
    p.known = b.known;
    p.known_eps = b.known_noise;
    p.known_scale = r < size() ? program_.rows[r].level[0] : 1.0;
    p.known_noise = r < size() ? program_.rows[r].level[1] : 0.0;
  }
}

void require_levels(const Program& program) {
  if (std::all_of(program.rows.begin(), program.rows.end(), [](const Row& row) { return row.has_level; })) return;
  throw Error(kUnsupported, "program " + program.name +
                                " does not say the noise levels of its rows, which a mask needs: take one that was built by this "
                                "version");
}

void Rows::bind(const RowBuffers& buffers) {
  if (buffers.mask != nullptr) require_levels(program_);
  buffers_ = buffers;
  steps_.clear();
  steps_.resize(size() + 1);
  for (size_t r = 0; r <= size(); ++r) prepare(r, steps_[r]);
  if (buffers.noise != nullptr) set_noise(buffers.noise, buffers.noise_stride);
}

void Rows::set_noise(const float* noise, int64_t stride) {
  const auto next = [&](const double* scales) -> const float* {
    if (noise == nullptr || scales == nullptr) return nullptr;
    return std::exchange(noise, noise + stride);
  };
  for (ops::SolverStepParams& step : steps_) {
    step.after_eps = next(step.after_noise);
    step.before_eps = next(step.before_noise);
  }
}

void Rows::end_with_input() { steps_.back().net_input = buffers_.net_input; }

void Rows::run(size_t r, const void* net_output, DType dtype, const ops::Launch& launch) {
  ops::SolverStepParams& step = steps_[r];
  if (r > 0) {
    step.output = net_output;
    step.output_dtype = dtype;
  }
  step.launch = launch;
  step.launch.device = buffers_.device;
  ops::solver_step(step);
}

}  // namespace ae
