#include "runtime/sampler.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <iterator>
#include <new>

#include "core/error.hpp"
#include "core/philox.hpp"
#include "ops/randn/params.hpp"
#include "runtime/request.hpp"

namespace ae {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMaxImageElements = int64_t{1} << 40;
constexpr double kDecodingOverlap = 0.25, kDenoisingOverlap = 0.5;  // of tiles, as parts of them
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

Sampler::Sampler(const Bundle& bundle, const ae_engine& engine, std::unique_ptr<const Memory> memory, int threads, int max_batch)
    : memory_(std::move(memory)),
      bundle_(bundle),
      engine_(engine),
      threads_(threads),
      max_batch_(max_batch),
      sample_elements_(product(bundle.manifest().sample_shape)),
      output_elements_(product(bundle.manifest().output_shape)),
      constants_(bundle.denoiser(), bundle.schedule(), bundle.manifest().constants),
      conditions_(bundle.denoiser(), *memory_) {
  if (bundle.denoiser() != nullptr) denoiser_tiles_ = tiles_for(*bundle.denoiser(), kDenoisingOverlap);
  if (bundle.decoder() != nullptr) decoder_tiles_ = tiles_for(*bundle.decoder(), kDecodingOverlap);
}

Sampler::~Sampler() { drop_all(); }

void Sampler::reserve(int batch, int slots) {
  if (batch <= batch_capacity_ && slots <= slot_capacity_) return;
  drop_all();  // engines and graphs hold pointers into the buffers that go now
  const int64_t n = std::max(batch, batch_capacity_), s = std::max(slots, slot_capacity_);
  batch_capacity_ = slot_capacity_ = 0;
  const Memory& memory = *memory_;
  slots_ = Buffer<float>(s * n * sample_elements_, memory);
  input_ = Buffer<float>(2 * n * sample_elements_, memory);
  output_ = Buffer<float>(2 * n * sample_elements_, memory);
  const int64_t decoded = decoder_tiles_ ? 1 : n;
  if (bundle_.decoder() != nullptr) decoded_ = Buffer<float>(decoded * output_elements_, memory);
  if (denoiser_tiles_) denoiser_tiles_->reserve(2 * n);
  if (decoder_tiles_) decoder_tiles_->reserve(decoded);
  if (memory.on_host()) {
    inputs_ = std::make_unique<RowInputs>(constants_, 1, 2 * n, memory);
  } else {
    bytes_ = Buffer<uint8_t>(decoded * output_elements_, memory);
  }
  conditions_.reserve(bundle_.guides() ? 2 * n : n);
  classes_ = Buffer<int64_t>(2 * n, memory);
  tile_class_ = Buffer<int64_t>(1, memory);
  seeds_ = Buffer<uint64_t>(n, memory);
  non_finite_ = Buffer<int32_t>(n, memory);
  host_classes_.resize(static_cast<size_t>(2 * n));
  host_seeds_.resize(static_cast<size_t>(n));
  host_non_finite_.resize(static_cast<size_t>(n));
  batch_capacity_ = static_cast<int>(n);
  slot_capacity_ = static_cast<int>(s);
}

void Sampler::ensure_constants(float timestep, int num_rows) {
  if (!constants_.any() || constants_.find(timestep) != nullptr) return;
  constants_.begin(timestep);
  evaluate(*bundle_.schedule(), standing(*bundle_.schedule(), 1), -1, num_rows);
  constants_.store();
}

// The constants of every row, before the first: a timestep that the bundle's own programs do not have is evaluated now. What
// there is no room for, in programs of very many rows, is evaluated in its row.
void Sampler::prepare_constants(const Program& program) {
  constants_.trim();
  for (const Row& row : program.rows)
    if (constants_.has_room()) ensure_constants(static_cast<float>(row.timestep), static_cast<int>(program.rows.size()));
}

void Sampler::fill_inputs(RowInputs& inputs, int64_t at, const Loop& loop, size_t row) {
  const auto timestep = static_cast<float>(loop.rows[row].timestep);
  ensure_constants(timestep, static_cast<int>(loop.rows.size()));
  inputs.fill(at, timestep, static_cast<float>(loop.rows.weight(row)), constants_.any() ? constants_.find(timestep) : nullptr,
              int64_t{loop.batch} * loop.rows.halves(row));
}

void Sampler::require_finite(int first, int batch, size_t num_rows) {
  const int32_t* marks = memory_->on_host() ? non_finite_.data() : host_non_finite_.data();
  int found = -1;
  for (int i = 0; i < batch; ++i)
    if (marks[i] != 0 && (found < 0 || marks[i] < marks[found])) found = i;
  if (found < 0) return;
  const auto row = static_cast<size_t>(marks[found] - 1);
  const std::string where = row < num_rows ? "denoiser returned a value that is not finite in row " + std::to_string(row) +
                                                 " of " + std::to_string(num_rows)
                                           : "decoder returned a value that is not finite after the last row";
  throw Error(kEngine, "the " + where + " for sample " + std::to_string(first + found) +
                           ": try another format or engine, a lower guidance scale, or other latents");
}

void Sampler::fill_conditions(const ae_sample_options& options, int first, int batch) {
  const int64_t count = bundle_.manifest().class_count, null_class = count;
  for (int i = 0; i < batch; ++i) {
    const auto at = static_cast<size_t>(i);
    host_seeds_[at] = seed_of(options, first + i);
    const int64_t given = options.classes != nullptr ? options.classes[first + i]
                          : count > 0                ? drawn_class(host_seeds_[at], count)
                                                     : 0;
    host_classes_[at] = given < 0 ? null_class : given;
    const int64_t negative = options.negative_classes != nullptr ? options.negative_classes[first + i] : -1;
    host_classes_[static_cast<size_t>(batch) + at] = negative < 0 ? null_class : negative;
  }
  memory_->upload(seeds_.data(), host_seeds_.data(), static_cast<size_t>(batch) * sizeof(uint64_t));
  memory_->upload(classes_.data(), host_classes_.data(), static_cast<size_t>(2 * batch) * sizeof(int64_t));
  conditions_.fill(options.conditions, options.num_conditions, first, batch, 0);
  conditions_.fill(options.negative_conditions, options.num_negative_conditions, first, batch, batch);
}

ops::Launch Sampler::launch() const {
  ops::Launch launch;
  launch.threads = threads_;
  launch.stream = memory_->stream();
  launch.device = memory_->device();
  return launch;
}

// A batch's part of a caller's array where the steps can read it: on a GPU in `buffer`, which stays.
const float* Sampler::part(const float* values, int64_t offset, int64_t count, Buffer<float>& buffer) {
  if (values == nullptr || memory_->on_host()) return values != nullptr ? values + offset : nullptr;
  if (buffer.size() == 0) buffer = Buffer<float>(count, *memory_);
  memory_->upload(buffer.data(), values + offset, static_cast<size_t>(count) * sizeof(float));
  return buffer.data();
}

void Sampler::bind_rows(Loop& loop, const ae_sample_options& options, int first) {
  const int64_t offset = first * sample_elements_, state = loop.batch * sample_elements_;
  const int64_t draws = loop.own_noise ? static_cast<int64_t>(options.num_draws) : 0, all = options.count * sample_elements_;
  RowBuffers b;
  b.samples = loop.batch;
  b.elements = sample_elements_;
  b.device = memory_->device();
  b.slots = slots_.data();
  b.seeds = seeds_.data();
  b.nonfinite = non_finite_.data();
  b.net_input = input_.data();
  b.net_output = output_.data();
  b.mask = part(options.mask, offset, state, loop.mask);
  b.known = part(options.known, offset, state, loop.known);
  b.known_noise = options.known_noise != nullptr ? part(options.known_noise, offset, state, loop.known_noise) : nullptr;
  if (loop.masked && b.known_noise == nullptr) {
    if (loop.known_noise.size() == 0) loop.known_noise = Buffer<float>(state, *memory_);
    memory_->copy(loop.known_noise.data(), slots_.data(), static_cast<size_t>(state) * sizeof(float));
    b.known_noise = loop.known_noise.data();
  }
  b.noise = loop.own_noise ? options.noise + offset : nullptr;
  b.noise_stride = all;
  if (draws > 0 && !memory_->on_host()) {
    if (loop.noise.size() == 0) loop.noise = Buffer<float>(draws * state, *memory_);
    for (int64_t draw = 0; draw < draws; ++draw)
      memory_->upload(loop.noise.data() + draw * state, options.noise + draw * all + offset,
                      static_cast<size_t>(state) * sizeof(float));
    b.noise = loop.noise.data();
    b.noise_stride = state;
  }
  loop.rows.bind(b);
  if (bundle_.decoder() != nullptr) loop.rows.end_with_input();  // slot 0 as it is
}

// Puts latents and what the rows read of the request into the buffers.
void Sampler::start(Loop& loop, const ae_sample_options& options, int first) {
  const int64_t state = loop.batch * sample_elements_;
  const size_t bytes = static_cast<size_t>(state) * sizeof(float);
  memory_->zero(non_finite_.data(), static_cast<size_t>(loop.batch) * sizeof(int32_t));
  const LatentDistribution& latents = bundle_.manifest().latents;
  ops::RandnParams p;
  p.samples = loop.batch;
  p.elements = sample_elements_;
  p.draw = kLatentDraw;
  if (options.latents != nullptr) {
    memory_->upload(slots_.data(), options.latents + first * sample_elements_, bytes);
  } else if (loop.rows.size() == 0 && latents.kind != LatentDistribution::kNormal) {
    std::vector<float> drawn(static_cast<size_t>(state));
    p.seeds = host_seeds_.data();
    p.out = drawn.data();
    p.launch.threads = threads_;
    ops::randn(p);
    latents.transform(drawn.data(), p.samples, p.elements);
    memory_->upload(slots_.data(), drawn.data(), bytes);
  } else {
    p.seeds = seeds_.data();
    p.out = slots_.data();
    p.launch = launch();
    ops::randn(p);
  }
  memory_->zero(slots_.data() + state, static_cast<size_t>(loop.rows.program().slots - 1) * bytes);
  bind_rows(loop, options, first);
}

void Sampler::run_rows(Loop& loop, int first) {
  const auto count = static_cast<int>(loop.rows.size());
  const ops::Launch how = launch();
  const bool host = memory_->on_host();
  loop.rows.run(0, how);
  for (int r = 0; r < count; ++r) {
    const auto row = static_cast<size_t>(r);
    if (host) fill_inputs(*inputs_, 0, loop, row);
    const Component& denoiser = *bundle_.denoiser();
    const int64_t samples = int64_t{loop.batch} * loop.rows.halves(row);
    const Binding& binding = host ? standing(denoiser, samples) : loop.bindings[row];
    if (denoiser_tiles_) {
      evaluate_tiles(denoiser, *denoiser_tiles_, binding, input_.data(), output_.data(), samples, r, count);
    } else {
      evaluate(denoiser, binding, r, count);
    }
    loop.rows.run(row + 1, how);
    if (host) require_finite(first, loop.batch, loop.rows.size());
  }
}

void Sampler::run(Loop& loop, const ae_sample_options& options, int first) {
  reason_ = reason_to_run(loop, options);
  start(loop, options, first);
  if (loop.replay && !options.row_by_row) {
    try {
      loop.replay();
    } catch (...) {
      memory_->settle();
      loop.replay = nullptr;  // the next call runs row by row, and captures again
      throw;
    }
    statistics_.evaluations += static_cast<int64_t>(loop.rows.size() * (denoiser_tiles_ ? denoiser_tiles_->count() : 1));
  } else {
    run_rows(loop, first);
    if (reason_.empty()) capture(loop, options, first);
    loop.ran = true;
  }
  statistics_.captured = reason_.empty();
  statistics_.reason = reason_.empty() ? nullptr : reason_.c_str();
}

void Sampler::run_batch(const Program& program, const RowOptions& row_options, const ae_sample_options& options, int first,
                        int batch, ae_image* image) {
  reserve(batch, program.slots);
  fill_conditions(options, first, batch);
  Loop* prepared = nullptr;
  while (prepared == nullptr) {
    try {
      prepared = &loop_of(program, row_options, options, batch);
    } catch (const std::bad_alloc&) {  // loops that are kept for later make room
      if (loops_.empty()) throw;
      drop(std::prev(loops_.end()));
    }
  }
  Loop& loop = *prepared;
  run(loop, options, first);
  finish(options, first, batch, static_cast<int>(program.rows.size()), image);
  if (!memory_->on_host())
    memory_->download(host_non_finite_.data(), non_finite_.data(), static_cast<size_t>(batch) * sizeof(int32_t));
  memory_->wait();
  require_finite(first, batch, program.rows.size());
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
  try {
    for (int first = 0; first < options.count; first += max_batch_)
      run_batch(program, row_options, options, first, std::min(max_batch_, options.count - first), &result);
  } catch (...) {
    memory_->settle();  // the caller's arrays may go when this returns
    throw;
  }
  statistics_.total_seconds = seconds_since(start);
  data.release();
  *image = result;
}

}  // namespace ae
