// The executor of sampling programs: everything around the network evaluations, prepared for one program and one set of buffers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/tensor.hpp"
#include "ops/solver_step/params.hpp"
#include "runtime/program.hpp"

namespace ae {

// What the steps read and write, all on one device; N samples of E elements, S slots. The caller owns it.
struct RowBuffers {
  int64_t samples = 0, elements = 0;  // N, E
  Device device;
  float* slots = nullptr;           // [S, N, E]; slot 0 is the sample
  const uint64_t* seeds = nullptr;  // [N]
  int32_t* nonfinite = nullptr;     // [N], zeros at first: r where sample n became not finite in step r
  // The network's tensors, conditional half first where a row has two.
  void* net_input = nullptr;         // [max_halves, N, E]
  const void* net_output = nullptr;  // [max_halves, N, E], or null where each `run` names one
  DType dtype = DType::kFloat32;     // of both
  int32_t channels = 0;              // of a network with channels last, else 0
  // Parts of the sample that are known, or null: [N, E] each.
  const float* mask = nullptr;  // 1 where the sample is generated, 0 where it is …
  const float* known = nullptr;
  const float* known_noise = nullptr;  // brings `known` to the noise level of a row
  // What the rows add, or null: drawn from the seeds. [draws, N, E], `noise_stride` elements from one draw to the next.
  const float* noise = nullptr;
  int64_t noise_stride = 0;
};

struct RowOptions {
  double guidance_scale = 1.0;
  double guidance_rescale = 0.0;
  bool guides = true;  // whether a row whose guidance weight is not 1 evaluates a second, unconditional half

  bool operator==(const RowOptions& other) const {
    return guidance_scale == other.guidance_scale && guidance_rescale == other.guidance_rescale && guides == other.guides;
  }
};

// Throws Error(kUnsupported) unless every row says its noise level, which a mask needs.
void require_levels(const Program& program);

class Rows {
 public:
  Rows(const Program& program, const RowOptions& options);  // the program must live as long

  const Program& program() const { return program_; }
  const RowOptions& options() const { return options_; }
  size_t size() const { return program_.rows.size(); }
  const Row& operator[](size_t r) const { return program_.rows[r]; }
  double weight(size_t r) const { return program_.rows[r].weight(options_.guidance_scale); }
  // How many times the samples are in the network's batch of row r: 1, or 2 with guidance.
  int halves(size_t r) const { return options_.guides && weight(r) != 1.0 ? 2 : 1; }
  int max_halves() const;

  // Prepares the steps 0 … size() for these buffers. Throws Error(kUnsupported) for a mask where a row does not say its noise
  // level.
  void bind(const RowBuffers& buffers);
  // Replaces what the rows add, as RowBuffers says.
  void set_noise(const float* noise, int64_t stride);
  // The last step also writes slot 0 into the network input, for a decoder.
  void end_with_input();

  // Step r ends row r - 1 with the network's output and begins row r: it writes that row's network input. Step 0 turns unit
  // normal noise in slot 0 into the program's initial state. `launch.device` is set here. Throws Error.
  void run(size_t r, const ops::Launch& launch) { run(r, buffers_.net_output, buffers_.dtype, launch); }
  void run(size_t r, const void* net_output, DType dtype, const ops::Launch& launch);

 private:
  void prepare(size_t r, ops::SolverStepParams& step) const;

  const Program& program_;
  const RowOptions options_;
  std::vector<double> first_before_;  // [S, S]: of row 0, with the program's init_scale
  RowBuffers buffers_;
  std::vector<ops::SolverStepParams> steps_;  // [size() + 1]
};

}  // namespace ae
