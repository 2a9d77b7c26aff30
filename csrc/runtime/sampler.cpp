#include "runtime/sampler.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "core/error.hpp"
#include "core/philox.hpp"
#include "ops/latent_to_rgb8/params.hpp"
#include "ops/randn/params.hpp"
#include "runtime/request.hpp"

namespace ae {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMaxImageElements = int64_t{1} << 40;
constexpr uint32_t kLatentDraw = 0;
constexpr uint32_t kClassDraw = 0xffffffffu;  // beyond the draws of every row

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

uint64_t seed_of(const ae_sample_options& options, int i) {
  return options.seeds != nullptr ? options.seeds[i] : options.seed + static_cast<uint64_t>(i);
}

int64_t product(const std::vector<int64_t>& shape) {
  int64_t elements = 1;
  for (const int64_t size : shape) elements *= size;
  return elements;
}

// The same class for the same seed, whatever the batch is.
int64_t drawn_class(uint64_t seed, int64_t count) {
  const auto bits = philox::rounds<philox::Single>(philox::Words<uint64_t>{0, kClassDraw, 0, 0}, static_cast<uint32_t>(seed),
                                                   static_cast<uint32_t>(seed >> 32));
  return static_cast<int64_t>((bits.x0 & 0xffffffffu) * static_cast<uint64_t>(count) >> 32);
}

}  // namespace

Sampler::Sampler(const Bundle& bundle, const ae_engine& engine, int threads, int max_batch)
    : bundle_(bundle),
      engine_(engine),
      threads_(threads),
      max_batch_(max_batch),
      sample_elements_(product(bundle.manifest().sample_shape)),
      output_elements_(product(bundle.manifest().output_shape)),
      constants_(bundle.denoiser(), bundle.schedule(), bundle.manifest().constants),
      conditions_(bundle.denoiser()) {}

Sampler::~Sampler() { release_bindings(); }

void Sampler::release_bindings() {
  for (const auto& entry : bindings_)
    if (engine_.release != nullptr) engine_.release(engine_.user, entry.second.id);
  bindings_.clear();
}

void Sampler::reserve(int batch, int slots) {
  if (batch <= batch_capacity_ && slots <= slot_capacity_) return;
  release_bindings();  // engines hold pointers into the buffers that go now
  const int64_t n = std::max(batch, batch_capacity_), s = std::max(slots, slot_capacity_);
  batch_capacity_ = slot_capacity_ = 0;
  slots_ = Buffer<float>(s * n * sample_elements_);
  input_ = Buffer<float>(2 * n * sample_elements_);
  output_ = Buffer<float>(2 * n * sample_elements_);
  if (bundle_.decoder() != nullptr) decoded_ = Buffer<float>(n * output_elements_);
  timesteps_ = Buffer<float>(2 * n);
  guidance_ = Buffer<float>(n);
  constants_.reserve(2 * n);
  conditions_.reserve(bundle_.guides() ? 2 * n : n);
  classes_ = Buffer<int64_t>(2 * n);
  seeds_ = Buffer<uint64_t>(n);
  non_finite_ = Buffer<int32_t>(n);
  batch_capacity_ = static_cast<int>(n);
  slot_capacity_ = static_cast<int>(s);
}

Sampler::Binding& Sampler::binding(const Component& component, int64_t batch) {
  const auto key = std::make_pair(component.kind, batch);
  if (const auto found = bindings_.find(key); found != bindings_.end()) return found->second;
  Binding& b = bindings_[key];
  b.id = next_binding_++;
  const size_t count = component.inputs.size() + component.outputs.size();
  b.shapes.reserve(count);
  b.tensors.reserve(count);
  const auto add = [&](const TensorSpec& spec, void* data) {
    std::vector<int64_t> shape = {batch};
    shape.insert(shape.end(), spec.shape.begin(), spec.shape.end());
    b.shapes.push_back(std::move(shape));
    b.tensors.push_back({sizeof(ae_tensor), spec.name.c_str(), spec.dtype, static_cast<int32_t>(b.shapes.back().size()),
                         b.shapes.back().data(), data});
    return &b.tensors.back();
  };
  const bool schedule = component.kind == ComponentKind::kSchedule;
  const auto data_of = [&](const TensorSpec& input) -> void* {
    switch (input.role) {
      case Role::kSample:
        return input_.data();
      case Role::kTimestep:
        return schedule ? constants_.timestep() : timesteps_.data();
      case Role::kConstant:
        return constants_.input(input.name);
      case Role::kCondition:
        return conditions_.input(input.name);
      case Role::kGuidance:
        return guidance_.data();
      case Role::kClass:
      case Role::kTokens:  // of text encoders, which are not evaluated here
        break;
    }
    return classes_.data();
  };
  for (const TensorSpec& input : component.inputs) b.inputs.push_back(add(input, data_of(input)));
  for (const TensorSpec& output : component.outputs)
    b.outputs.push_back(add(output, schedule                                    ? constants_.output(output.name)
                                    : component.kind == ComponentKind::kDecoder ? decoded_.data()
                                                                                : output_.data()));
  return b;
}

void Sampler::evaluate(const Component& component, int64_t batch, int row, int num_rows) {
  const Binding& b = binding(component, batch);
  ae_evaluation evaluation = {};
  evaluation.size = sizeof evaluation;
  evaluation.component = component.name.c_str();
  const bool schedule = component.kind == ComponentKind::kSchedule;
  evaluation.format = schedule ? component.formats.begin()->first.c_str() : bundle_.format().c_str();
  evaluation.binding = b.id;
  evaluation.row = row;
  evaluation.num_rows = num_rows;
  evaluation.num_inputs = b.inputs.size();
  evaluation.num_outputs = b.outputs.size();
  evaluation.inputs = b.inputs.data();
  evaluation.outputs = b.outputs.data();
  char message[1024] = {};
  const auto start = Clock::now();
  const ae_status status = engine_.evaluate(engine_.user, &evaluation, message, sizeof message);
  statistics_.network_seconds += seconds_since(start);
  statistics_.evaluations += schedule ? 0 : 1;
  if (status == AE_OK) return;
  message[sizeof message - 1] = 0;
  const bool known = status > AE_OK && status <= AE_INTERNAL;
  throw Error(known ? static_cast<Status>(status) : kEngine,
              message[0] != 0 ? std::string(message) : "the engine failed and gave no reason");
}

void Sampler::ensure_constants(float timestep, int num_rows) {
  if (!constants_.any() || constants_.has(timestep)) return;
  constants_.begin(timestep);
  evaluate(*bundle_.schedule(), 1, -1, num_rows);
  constants_.store();
}

// The constants of every row, before the first: a timestep that the bundle's own programs do not have is evaluated now. What
// there is no room for, in programs of very many rows, is evaluated in its row.
void Sampler::prepare_constants(const Program& program) {
  constants_.trim();
  for (const Row& row : program.rows)
    if (constants_.has_room()) ensure_constants(static_cast<float>(row.timestep), static_cast<int>(program.rows.size()));
}

void Sampler::fill_constants(float timestep, int64_t samples, int num_rows) {
  ensure_constants(timestep, num_rows);
  constants_.fill(timestep, samples);
}

void Sampler::require_finite(int first, int batch, const char* component, int row, int num_rows) {
  for (int i = 0; i < batch; ++i) {
    if (non_finite_[i] == 0) continue;
    const std::string step =
        row < num_rows ? "in row " + std::to_string(row) + " of " + std::to_string(num_rows) : std::string("after the last row");
    throw Error(kEngine, std::string("the ") + component + " returned a value that is not finite " + step + " for sample " +
                             std::to_string(first + i) +
                             ": try another format or engine, a lower guidance scale, or other latents");
  }
}

void Sampler::fill_conditions(const ae_sample_options& options, int first, int batch) {
  const int64_t count = bundle_.manifest().class_count, null_class = count;
  for (int i = 0; i < batch; ++i) {
    seeds_[i] = seed_of(options, first + i);
    const int64_t given = options.classes != nullptr ? options.classes[first + i] : count > 0 ? drawn_class(seeds_[i], count) : 0;
    classes_[i] = given < 0 ? null_class : given;
    const int64_t negative = options.negative_classes != nullptr ? options.negative_classes[first + i] : -1;
    classes_[batch + i] = negative < 0 ? null_class : negative;
  }
  conditions_.fill(options.conditions, options.num_conditions, first, batch, 0);
  conditions_.fill(options.negative_conditions, options.num_negative_conditions, first, batch, batch);
}

void Sampler::bind_rows(Rows& rows, const ae_sample_options& options, int first, int batch) {
  const int64_t offset = first * sample_elements_;
  const auto part = [&](const float* values) { return values != nullptr ? values + offset : nullptr; };
  RowBuffers b;
  b.samples = batch;
  b.elements = sample_elements_;
  b.slots = slots_.data();
  b.seeds = seeds_.data();
  b.nonfinite = non_finite_.data();
  b.net_input = input_.data();
  b.net_output = output_.data();
  b.mask = part(options.mask);
  b.known = part(options.known);
  b.known_noise = options.known_noise != nullptr ? part(options.known_noise) : latents_.data();
  b.noise = part(options.noise);
  b.noise_stride = options.count * sample_elements_;
  rows.bind(b);
  if (bundle_.decoder() != nullptr) rows.end_with_input();  // slot 0 as it is
}

void Sampler::run_rows(Rows& rows, int first, int batch) {
  const int count = static_cast<int>(rows.size());
  ops::Launch launch;
  launch.threads = threads_;
  rows.run(0, launch);
  for (int r = 0; r < count; ++r) {
    const auto row = static_cast<size_t>(r);
    const auto timestep = static_cast<float>(rows[row].timestep);
    const int64_t samples = int64_t{batch} * rows.halves(row);
    std::fill_n(timesteps_.data(), samples, timestep);
    std::fill_n(guidance_.data(), batch, static_cast<float>(rows.weight(row)));
    fill_constants(timestep, samples, count);
    evaluate(*bundle_.denoiser(), samples, r, count);
    rows.run(row + 1, launch);
    require_finite(first, batch, "denoiser", r, count);
  }
}

void Sampler::run_batch(Rows& rows, const ae_sample_options& options, int first, int batch, ae_image* image) {
  const int slots = rows.program().slots;
  reserve(batch, slots);
  fill_conditions(options, first, batch);
  std::fill_n(non_finite_.data(), batch, 0);
  const int64_t state = batch * sample_elements_;
  if (options.latents != nullptr) {
    std::memcpy(slots_.data(), options.latents + first * sample_elements_, static_cast<size_t>(state) * sizeof(float));
  } else {
    ops::RandnParams p;
    p.samples = batch;
    p.elements = sample_elements_;
    p.seeds = seeds_.data();
    p.draw = kLatentDraw;
    p.out = slots_.data();
    p.launch.threads = threads_;
    ops::randn(p);
  }
  std::fill_n(slots_.data() + state, (slots - 1) * state, 0.0f);
  if (options.mask != nullptr && options.known_noise == nullptr) {
    latents_ = Buffer<float>(state);
    std::memcpy(latents_.data(), slots_.data(), static_cast<size_t>(state) * sizeof(float));
  }
  bind_rows(rows, options, first, batch);
  run_rows(rows, first, batch);

  const float* pixels = slots_.data();
  if (bundle_.decoder() != nullptr) {
    const int count = static_cast<int>(rows.size());
    evaluate(*bundle_.decoder(), batch, count, count);
    pixels = decoded_.data();
    for (int i = 0; i < batch; ++i) {
      const float* begin = pixels + i * output_elements_;
      non_finite_[i] = !std::all_of(begin, begin + output_elements_, [](float v) { return std::isfinite(v); });
    }
    require_finite(first, batch, "decoder", count, count);
  }
  const int64_t values = batch * output_elements_, offset = first * output_elements_;
  if (options.output == AE_OUTPUT_FLOAT32) {
    std::memcpy(static_cast<float*>(image->data) + offset, pixels, static_cast<size_t>(values) * sizeof(float));
    return;
  }
  ops::LatentToRgb8Params p;
  p.samples = batch;
  p.channels = image->channels;
  p.height = image->height;
  p.width = image->width;
  p.images = pixels;
  p.out = static_cast<uint8_t*>(image->data) + offset;
  p.scale = 255.0 / (double{bundle_.manifest().output_high} - double{bundle_.manifest().output_low});
  p.bias = -double{bundle_.manifest().output_low} * p.scale;
  p.launch.threads = threads_;
  ops::latent_to_rgb8(p);
}

const Program& Sampler::check(const ae_sample_options& options) const {
  const Program& program = bundle_.program(options.program != nullptr ? options.program : "");
  check_request(options, bundle_, program);
  return program;
}

void Sampler::sample(const ae_sample_options& options, ae_image* image) {
  const auto start = Clock::now();
  statistics_ = {};
  statistics_.size = sizeof statistics_;
  if (engine_.evaluate == nullptr)
    throw Error(kUnsupported, "the bundle was opened without an engine: give ae_open_options.engine to sample");
  const Program& program = check(options);
  const auto& shape = bundle_.manifest().output_shape;
  if (options.count > kMaxImageElements / output_elements_)
    throw Error(kOutOfMemory, std::to_string(options.count) + " samples do not fit into one image array: draw fewer at once");
  ae_image result = {};
  result.size = image->size;
  result.count = options.count;
  result.channels = static_cast<int32_t>(shape[0]);
  result.height = static_cast<int32_t>(shape[1]);
  result.width = static_cast<int32_t>(shape[2]);
  result.output = options.output;
  result.bytes = static_cast<size_t>(options.count) * static_cast<size_t>(output_elements_) *
                 (options.output == AE_OUTPUT_RGB8 ? 1 : sizeof(float));
  auto data = Buffer<unsigned char>(static_cast<int64_t>(result.bytes));
  result.data = data.data();
  prepare_constants(program);
  RowOptions row_options;
  row_options.guidance_scale = guidance_scale(options, program);
  row_options.guidance_rescale =
      options.guidance_rescale != nullptr ? double{*options.guidance_rescale} : program.guidance_rescale;
  row_options.guides = bundle_.guides();
  Rows rows(program, row_options);
  for (int first = 0; first < options.count; first += max_batch_)
    run_batch(rows, options, first, std::min(max_batch_, options.count - first), &result);
  statistics_.total_seconds = seconds_since(start);
  data.release();
  *image = result;
}

}  // namespace ae
