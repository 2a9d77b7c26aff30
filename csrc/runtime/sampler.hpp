// Runs sampling programs over a bundle: noise, rows, guidance and pixels in native code, the networks through an engine.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "aigc_edge/aigc_edge.h"
#include "core/buffer.hpp"
#include "core/error.hpp"
#include "ops/launch.hpp"
#include "runtime/bundle.hpp"
#include "runtime/conditions.hpp"
#include "runtime/constants.hpp"
#include "runtime/row_inputs.hpp"
#include "runtime/rows.hpp"
#include "runtime/tiles.hpp"

namespace ae {

// What an engine's callback that failed becomes; `message` is the buffer that it could write to.
Error engine_error(ae_status status, char* message, size_t capacity);

class Sampler {
 public:
  // `engine.evaluate` may be null: then `sample` says that an engine is missing. The memory says where the loop runs.
  Sampler(const Bundle& bundle, const ae_engine& engine, std::unique_ptr<const Memory> memory, int threads, int max_batch);
  ~Sampler();
  Sampler(const Sampler&) = delete;
  Sampler& operator=(const Sampler&) = delete;

  // Fills `image`, whose data the caller frees with std::free. Throws Error; `image` is then untouched.
  void sample(const ae_sample_options& options, ae_image* image);

  // Throws Error for options that `sample` would refuse; returns their program.
  const Program& check(const ae_sample_options& options) const;

  // Drops what was prepared for a program, which is about to be replaced.
  void forget(const std::string& program);

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

  // A program prepared for one batch size. On a GPU it stays, with its graph; on the host it serves one batch.
  struct Loop {
    Loop(const Program& program, const RowOptions& options) : rows(program, options) {}

    Rows rows;
    int batch = 0;
    bool own_noise = false, masked = false;  // whether the caller supplies what the rows add, and parts of the samples
    std::unique_ptr<RowInputs> inputs;       // of all rows, on a GPU
    std::vector<Binding> bindings;           // of each row, on a GPU
    Buffer<float> mask, known, known_noise, noise;
    bool ran = false;
    std::function<void()> replay;  // all rows as one graph, or null
    std::string never;             // why there is none and none is tried
  };

  void reserve(int batch, int slots);
  Binding bind(const Component& component, int64_t batch, RowInputs* inputs, int64_t row);
  const Binding& standing(const Component& component, int64_t batch);
  void release(const Binding& binding);
  void drop(std::list<Loop>::iterator loop);
  void drop_all();
  void ensure_constants(float timestep, int num_rows);
  void prepare_constants(const Program& program);
  void fill_inputs(RowInputs& inputs, int64_t at, const Loop& loop, size_t row);
  void fill_conditions(const ae_sample_options& options, int first, int batch);
  void run_batch(const Program& program, const RowOptions& row_options, const ae_sample_options& options, int first, int batch,
                 ae_image* image);
  Loop& loop_of(const Program& program, const RowOptions& row_options, const ae_sample_options& options, int batch);
  const float* part(const float* values, int64_t offset, int64_t count, Buffer<float>& buffer);
  void bind_rows(Loop& loop, const ae_sample_options& options, int first);
  void start(Loop& loop, const ae_sample_options& options, int first);
  void run(Loop& loop, const ae_sample_options& options, int first);
  void run_rows(Loop& loop, int first);
  void require_finite(int first, int batch, size_t num_rows);
  ops::Launch launch() const;

  // Of networks and what they return, in evaluation.cpp.
  void evaluate(const Component& component, const Binding& binding, int row, int num_rows);
  std::unique_ptr<Tiles> tiles_for(const Component& component, double overlap) const;
  void evaluate_tiles(const Component& component, Tiles& tiles, const Binding& binding, const float* input, float* output,
                      int64_t samples, int row, int num_rows);
  void mark_decoded(int at, int count, int mark);
  void finish(const ae_sample_options& options, int first, int batch, int num_rows, ae_image* image);
  void write_pixels(const ae_sample_options& options, const float* pixels, int first, int count, ae_image* image);

  // Of loops on a GPU, in capture.cpp.
  std::string reason_to_run(const Loop& loop, const ae_sample_options& options) const;
  void capture(Loop& loop, const ae_sample_options& options, int first);
  std::function<void()> record(Loop& loop);
  std::vector<float> state(int batch) const;

  const std::unique_ptr<const Memory> memory_;
  const Bundle& bundle_;
  const ae_engine engine_;
  const int threads_, max_batch_;
  int64_t sample_elements_, output_elements_;

  // Sized for `batch_capacity_` samples of `slot_capacity_` slots; the doubled batch of guidance is [conditional, unconditional].
  int batch_capacity_ = 0, slot_capacity_ = 0;
  Buffer<float> slots_;                                    // [S, N, sample]
  Buffer<float> input_;                                    // [2N, sample]
  Buffer<float> output_;                                   // [2N, sample]
  Buffer<float> decoded_;                                  // [N, output], only with a decoder; [1, output] where it takes tiles
  std::unique_ptr<Tiles> denoiser_tiles_, decoder_tiles_;  // null where the network takes the whole
  std::unique_ptr<RowInputs> inputs_;                      // of the row at hand, on the host
  Constants constants_;
  Conditions conditions_;       // of 2N samples, of N where no row is doubled
  Buffer<int64_t> classes_;     // [2N]
  Buffer<int64_t> tile_class_;  // [1]: of the sample that is decoded in tiles
  Buffer<uint64_t> seeds_;      // [N]
  Buffer<int32_t> non_finite_;  // [N]: the step after which a sample was not finite, or 0
  Buffer<uint8_t> bytes_;       // [N, output]: pixels, on a GPU; as many as `decoded_`
  // In host memory: what is uploaded to or downloaded from the buffers of these names.
  std::vector<int64_t> host_classes_;
  std::vector<uint64_t> host_seeds_;
  std::vector<int32_t> host_non_finite_;

  std::map<std::pair<ComponentKind, int64_t>, Binding> bindings_;  // by component and batch
  std::list<Loop> loops_;                                          // the latest first
  uint64_t next_binding_ = 1;
  ae_statistics statistics_ = {};
  std::string reason_;  // what statistics_.reason points to
};

}  // namespace ae
