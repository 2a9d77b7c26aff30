// Runs sampling programs over a bundle: noise, rows, guidance and pixels in native code, the networks through an engine.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "aigc_edge/aigc_edge.h"
#include "core/buffer.hpp"
#include "runtime/bundle.hpp"
#include "runtime/conditions.hpp"
#include "runtime/constants.hpp"
#include "runtime/rows.hpp"

namespace ae {

class Sampler {
 public:
  // `engine.evaluate` may be null: then `sample` says that an engine is missing.
  Sampler(const Bundle& bundle, const ae_engine& engine, int threads, int max_batch);
  ~Sampler();
  Sampler(const Sampler&) = delete;
  Sampler& operator=(const Sampler&) = delete;

  // Fills `image`, whose data the caller frees with std::free. Throws Error; `image` is then untouched.
  void sample(const ae_sample_options& options, ae_image* image);

  // Throws Error for options that `sample` would refuse; returns their program.
  const Program& check(const ae_sample_options& options) const;

  const ae_statistics& statistics() const { return statistics_; }

 private:
  // What one evaluation of a component at one batch size is called with. Bindings persist, so that an engine can cache what it
  // prepared for them.
  struct Binding {
    uint64_t id;
    std::vector<std::vector<int64_t>> shapes;
    std::vector<ae_tensor> tensors;
    std::vector<const ae_tensor*> inputs, outputs;
  };

  void reserve(int batch, int slots);
  void release_bindings();
  Binding& binding(const Component& component, int64_t batch);
  void evaluate(const Component& component, int64_t batch, int row, int num_rows);
  void ensure_constants(float timestep, int num_rows);
  void prepare_constants(const Program& program);
  void fill_constants(float timestep, int64_t samples, int num_rows);
  void fill_conditions(const ae_sample_options& options, int first, int batch);
  void run_batch(Rows& rows, const ae_sample_options& options, int first, int batch, ae_image* image);
  void bind_rows(Rows& rows, const ae_sample_options& options, int first, int batch);
  void run_rows(Rows& rows, int first, int batch);
  void require_finite(int first, int batch, const char* component, int row, int num_rows);

  const Bundle& bundle_;
  const ae_engine engine_;
  const int threads_, max_batch_;
  int64_t sample_elements_, output_elements_;

  // Sized for `batch_capacity_` samples of `slot_capacity_` slots; the doubled batch of guidance is [conditional, unconditional].
  int batch_capacity_ = 0, slot_capacity_ = 0;
  Buffer<float> slots_;         // [S, N, sample]
  Buffer<float> input_;         // [2N, sample]
  Buffer<float> output_;        // [2N, sample]
  Buffer<float> decoded_;       // [N, output], only with a decoder
  Buffer<float> timesteps_;     // [2N]
  Buffer<float> guidance_;      // [N]: the row's weight, for a network that takes it
  Constants constants_;         // of 2N samples
  Conditions conditions_;       // of 2N samples, of N where no row is doubled
  Buffer<int64_t> classes_;     // [2N]
  Buffer<uint64_t> seeds_;      // [N]
  Buffer<int32_t> non_finite_;  // [N]
  Buffer<float> latents_;       // [N, sample], only where parts of the sample are known

  std::map<std::pair<ComponentKind, int64_t>, Binding> bindings_;  // by component and batch
  uint64_t next_binding_ = 1;
  ae_statistics statistics_ = {};
};

}  // namespace ae
