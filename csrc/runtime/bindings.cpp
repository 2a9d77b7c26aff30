// What engines are bound to: standing buffers, and on a GPU a loop for each program, batch size and guidance.
#include <algorithm>
#include <iterator>
#include <utility>

#include "runtime/sampler.hpp"

namespace ae {
namespace {

constexpr size_t kMaxLoops = 8;  // on a GPU: each holds its graph and its tables

}  // namespace

void Sampler::release(const Binding& binding) {
  if (engine_.release != nullptr) engine_.release(engine_.user, binding.id);
}

void Sampler::drop(std::list<Loop>::iterator loop) {
  loop->replay = nullptr;  // before what it refers to
  for (const Binding& binding : loop->bindings) release(binding);
  loops_.erase(loop);
}

void Sampler::drop_all() {
  while (!loops_.empty()) drop(loops_.begin());
  for (const auto& entry : bindings_) release(entry.second);
  bindings_.clear();
}

void Sampler::forget(const std::string& program) {
  for (auto loop = loops_.begin(); loop != loops_.end();) {
    const auto next = std::next(loop);
    if (loop->rows.program().name == program) drop(loop);
    loop = next;
  }
}

Sampler::Binding Sampler::bind(const Component& component, int64_t batch, RowInputs* inputs, int64_t row) {
  Binding b;
  b.id = next_binding_++;
  const size_t count = component.inputs.size() + component.outputs.size();
  b.shapes.reserve(count);
  b.tensors.reserve(count);
  const bool schedule = component.kind == ComponentKind::kSchedule;
  const auto add = [&](const TensorSpec& spec, void* data) {
    std::vector<int64_t> shape = {batch};
    shape.insert(shape.end(), spec.shape.begin(), spec.shape.end());
    b.shapes.push_back(std::move(shape));
    b.tensors.push_back({sizeof(ae_tensor), spec.name.c_str(), spec.dtype, static_cast<int32_t>(b.shapes.back().size()),
                         b.shapes.back().data(), data, schedule || memory_->on_host() ? AE_CPU : AE_CUDA});
    return &b.tensors.back();
  };
  Tiles* const tiles = component.kind == ComponentKind::kDecoder ? decoder_tiles_.get()
                       : schedule                                ? nullptr
                                                                 : denoiser_tiles_.get();
  const auto data_of = [&](const TensorSpec& input) -> void* {
    switch (input.role) {
      case Role::kSample:
        return tiles != nullptr ? tiles->input() : input_.data();
      case Role::kTimestep:
        return schedule ? constants_.timestep() : inputs->timestep(row);
      case Role::kConstant:
        return inputs->constant(input.name, row);
      case Role::kCondition:
        return conditions_.input(input.name);
      case Role::kGuidance:
        return inputs->guidance(row);
      case Role::kClass:
      case Role::kTokens:  // of text encoders, which are not evaluated here
        break;
    }
    return component.kind == ComponentKind::kDecoder && tiles != nullptr ? tile_class_.data() : classes_.data();
  };
  for (const TensorSpec& input : component.inputs) b.inputs.push_back(add(input, data_of(input)));
  for (const TensorSpec& output : component.outputs)
    b.outputs.push_back(add(output, schedule                                    ? constants_.output(output.name)
                                    : tiles != nullptr                          ? tiles->output()
                                    : component.kind == ComponentKind::kDecoder ? decoded_.data()
                                                                                : output_.data()));
  return b;
}

// The binding of a component whose inputs do not differ from row to row.
const Sampler::Binding& Sampler::standing(const Component& component, int64_t batch) {
  const auto key = std::make_pair(component.kind, batch);
  auto found = bindings_.find(key);
  if (found == bindings_.end()) found = bindings_.emplace(key, bind(component, batch, inputs_.get(), 0)).first;
  return found->second;
}

// The loop that was prepared for such a request, or a new one.
Sampler::Loop& Sampler::loop_of(const Program& program, const RowOptions& row_options, const ae_sample_options& options,
                                int batch) {
  const bool own_noise = options.noise != nullptr, masked = options.mask != nullptr, host = memory_->on_host();
  const auto found = std::find_if(loops_.begin(), loops_.end(), [&](const Loop& loop) {
    return &loop.rows.program() == &program && loop.rows.options() == row_options && loop.batch == batch &&
           loop.own_noise == own_noise && loop.masked == masked;
  });
  if (found != loops_.end() && !host) {
    loops_.splice(loops_.begin(), loops_, found);
    return loops_.front();
  }
  while (loops_.size() >= (host ? 1 : kMaxLoops)) drop(std::prev(loops_.end()));
  Loop& loop = loops_.emplace_front(program, row_options);
  loop.batch = batch;
  loop.own_noise = own_noise;
  loop.masked = masked;
  if (host || loop.rows.size() == 0) return loop;
  try {
    loop.inputs = std::make_unique<RowInputs>(constants_, static_cast<int64_t>(loop.rows.size()),
                                              int64_t{batch} * loop.rows.max_halves(), *memory_);
    for (size_t r = 0; r < loop.rows.size(); ++r) {
      const auto row = static_cast<int64_t>(r);
      fill_inputs(*loop.inputs, row, loop, r);
      loop.bindings.push_back(bind(*bundle_.denoiser(), int64_t{batch} * loop.rows.halves(r), loop.inputs.get(), row));
    }
  } catch (...) {
    drop(loops_.begin());  // half of a loop must not be found again
    throw;
  }
  return loop;
}

}  // namespace ae
