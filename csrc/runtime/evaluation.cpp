// Evaluations of networks, on the whole sample or on tiles of it, and what becomes of the last: pixels.
#include <algorithm>
#include <chrono>
#include <string>

#include "core/error.hpp"
#include "ops/latent_to_rgb8/params.hpp"
#include "ops/solver_step/params.hpp"
#include "runtime/sampler.hpp"

namespace ae {

using Clock = std::chrono::steady_clock;

Error engine_error(ae_status status, char* message, size_t capacity) {
  message[capacity - 1] = 0;
  const bool known = status > AE_OK && status <= AE_INTERNAL;
  return {known ? static_cast<Status>(status) : kEngine,
          message[0] != 0 ? std::string(message) : "the engine failed and gave no reason"};
}

void Sampler::evaluate(const Component& component, const Binding& binding, int row, int num_rows) {
  ae_evaluation evaluation = {};
  evaluation.size = sizeof evaluation;
  evaluation.component = component.name.c_str();
  const bool schedule = component.kind == ComponentKind::kSchedule;
  evaluation.format = schedule ? component.formats.begin()->first.c_str() : bundle_.format().c_str();
  evaluation.binding = binding.id;
  evaluation.row = row;
  evaluation.num_rows = num_rows;
  evaluation.num_inputs = binding.inputs.size();
  evaluation.num_outputs = binding.outputs.size();
  evaluation.inputs = binding.inputs.data();
  evaluation.outputs = binding.outputs.data();
  evaluation.stream = schedule ? nullptr : memory_->stream();
  char message[1024] = {};
  const auto start = Clock::now();
  const ae_status status = engine_.evaluate(engine_.user, &evaluation, message, sizeof message);
  statistics_.network_seconds += std::chrono::duration<double>(Clock::now() - start).count();
  statistics_.evaluations += schedule ? 0 : 1;
  if (status != AE_OK) throw engine_error(status, message, sizeof message);
}

// The tiles of a network that takes less than the whole at once, or null. An overlap that was not requested is this part of a
// tile, or twice the receptive field, up to half a tile, where that is more.
std::unique_ptr<Tiles> Sampler::tiles_for(const Component& component, double overlap) const {
  const auto &input = bundle_.manifest().sample_shape, &output = bundle_.manifest().output_shape;
  const bool decoder = component.kind == ComponentKind::kDecoder;
  if (component.outputs[0].shape == (decoder ? output : input)) return nullptr;
  int64_t overlaps[2];  // in entries of the sample
  for (size_t axis : {1, 2}) {
    const int64_t scale = output[axis] / input[axis];
    const int64_t tile = component.outputs[0].shape[axis] / (decoder ? scale : 1);
    const auto usual = std::max(static_cast<int64_t>(tile * overlap), std::min(2 * component.receptive_field, tile / 2));
    overlaps[axis - 1] = bundle_.overlap() >= 0 ? bundle_.overlap() / scale : usual;
  }
  return std::make_unique<Tiles>(component, input, decoder ? output : input, overlaps[0], overlaps[1], *memory_);
}

// Of `samples` from `input` to `output`, both of the whole.
void Sampler::evaluate_tiles(const Component& component, Tiles& tiles, const Binding& binding, const float* input, float* output,
                             int64_t samples, int row, int num_rows) {
  const int64_t elements = component.kind == ComponentKind::kDecoder ? output_elements_ : sample_elements_;
  memory_->zero(output, static_cast<size_t>(samples * elements) * sizeof(float));
  for (size_t tile = 0; tile < tiles.count(); ++tile) {
    tiles.cut(tile, input, samples, launch());
    evaluate(component, binding, row, num_rows);
    tiles.blend(tile, output, samples, launch());
  }
}

// A step that changes nothing and marks samples whose pixels are not finite: `count` of the batch, from `at` on.
void Sampler::mark_decoded(int at, int count, int mark) {
  ops::SolverStepParams p;
  p.samples = count;
  p.elements = output_elements_;
  p.slot_count = 1;
  p.slots = decoded_.data();
  p.nonfinite = non_finite_.data() + at;
  p.mark = mark;
  p.launch = launch();
  ops::solver_step(p);
}

// Decodes the batch whose state the last step has written into the network input, all at once, or in tiles sample by sample, so
// that the memory does not grow with the batch.
void Sampler::finish(const ae_sample_options& options, int first, int batch, int num_rows, ae_image* image) {
  const Component* const decoder = bundle_.decoder();
  if (decoder == nullptr) return write_pixels(options, slots_.data(), first, batch, image);
  if (!decoder_tiles_) {
    evaluate(*decoder, standing(*decoder, batch), num_rows, num_rows);
    mark_decoded(0, batch, num_rows + 1);
    return write_pixels(options, decoded_.data(), first, batch, image);
  }
  for (int i = 0; i < batch; ++i) {
    memory_->copy(tile_class_.data(), classes_.data() + i, sizeof(int64_t));
    evaluate_tiles(*decoder, *decoder_tiles_, standing(*decoder, 1), input_.data() + i * sample_elements_, decoded_.data(), 1,
                   num_rows, num_rows);
    mark_decoded(i, 1, num_rows + 1);
    write_pixels(options, decoded_.data(), first + i, 1, image);
  }
}

// Samples in floating point as the caller wants them, from number `first` on.
void Sampler::write_pixels(const ae_sample_options& options, const float* pixels, int first, int count, ae_image* image) {
  const int64_t values = count * output_elements_, offset = first * output_elements_;
  if (options.output == AE_OUTPUT_FLOAT32)
    return memory_->download(static_cast<float*>(image->data) + offset, pixels, static_cast<size_t>(values) * sizeof(float));
  uint8_t* const bytes = static_cast<uint8_t*>(image->data) + offset;
  ops::LatentToRgb8Params p;
  p.samples = count;
  p.channels = image->channels;
  p.height = image->height;
  p.width = image->width;
  p.images = pixels;
  p.out = memory_->on_host() ? bytes : bytes_.data();
  p.scale = 255.0 / (double{bundle_.manifest().output_high} - double{bundle_.manifest().output_low});
  p.bias = -double{bundle_.manifest().output_low} * p.scale;
  p.launch = launch();
  ops::latent_to_rgb8(p);
  if (!memory_->on_host()) memory_->download(bytes, bytes_.data(), static_cast<size_t>(values));
}

}  // namespace ae
