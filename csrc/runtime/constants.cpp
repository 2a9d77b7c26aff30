#include "runtime/constants.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>

#include "core/error.hpp"

namespace ae {
namespace {

constexpr size_t kMaxTimesteps = 1000000;
constexpr int64_t kMaxWidth = int64_t{1} << 31;
constexpr size_t kMaxKeptBytes = size_t{1} << 28;

int64_t width_of(const Component& schedule) {
  int64_t width = 0;
  for (const TensorSpec& output : schedule.outputs) {
    width += output.elements;
    if (width > kMaxWidth) throw Error(kBundle, "components.schedule gives more than 2^31 constants");
  }
  return width;
}

}  // namespace

ConstantTable parse_table(const Json& json, const Component& schedule, const std::string& path) {
  ConstantTable table;
  table.width = width_of(schedule);
  table.file = json.at("file", path).string(path + ".file");
  const auto& timesteps = json.at("timesteps", path).array(path + ".timesteps");
  if (timesteps.size() > kMaxTimesteps)
    throw Error(kBundle, path + ".timesteps holds more than " + std::to_string(kMaxTimesteps));
  table.timesteps.reserve(timesteps.size());
  for (size_t i = 0; i < timesteps.size(); ++i) {
    const std::string where = path + ".timesteps[" + std::to_string(i) + "]";
    const auto value = static_cast<float>(timesteps[i].number(where));
    if (!std::isfinite(value)) throw Error(kBundle, where + " is too large for float32");
    if (i > 0 && !(table.timesteps.back() < value)) throw Error(kBundle, where + " must be larger than the one before it");
    table.timesteps.push_back(value);
  }
  return table;
}

void check_constants(const Component& denoiser, const Component* schedule) {
  if (schedule != nullptr) {
    const auto& inputs = schedule->inputs;
    if (inputs.size() != 1 || inputs[0].role != Role::kTimestep || inputs[0].dtype != AE_FLOAT32 || !inputs[0].shape.empty())
      throw Error(kBundle, "components.schedule must have one input, a float32 timestep of the shape [N]");
    for (size_t i = 0; i < schedule->outputs.size(); ++i) {
      const TensorSpec& output = schedule->outputs[i];
      if (output.role != Role::kConstant || output.dtype != AE_FLOAT32)
        throw Error(kBundle, "components.schedule: the output " + output.name + " must be a constant, float32");
      for (size_t j = 0; j < i; ++j)
        if (schedule->outputs[j].name == output.name)
          throw Error(kBundle, "components.schedule has two outputs with the name " + output.name);
    }
  }
  for (const TensorSpec& input : denoiser.inputs) {
    if (input.role != Role::kConstant) continue;
    const auto same = [&](const TensorSpec& output) { return output.name == input.name && output.shape == input.shape; };
    if (schedule == nullptr || input.dtype != AE_FLOAT32 ||
        std::none_of(schedule->outputs.begin(), schedule->outputs.end(), same))
      throw Error(kBundle, "components." + denoiser.name + ": the input " + input.name +
                               " is a constant, float32, that components.schedule must give in the same shape");
  }
}

void Constants::Free::operator()(void* p) const { std::free(p); }

Constants::Constants(const Component* denoiser, const Component* schedule, const ConstantTable& table)
    : schedule_(schedule), table_(table) {
  if (denoiser == nullptr || schedule == nullptr) return;
  for (const TensorSpec& input : denoiser->inputs) {
    if (input.role != Role::kConstant) continue;
    int64_t offset = 0;
    for (const TensorSpec& output : schedule->outputs) {
      if (output.name == input.name) inputs_.emplace(input.name, Input{offset, output.elements, nullptr});
      offset += output.elements;
    }
  }
}

void Constants::reserve(int64_t samples) {
  filled_ = 0;
  for (auto& entry : inputs_) {
    const size_t bytes = (static_cast<size_t>(samples * entry.second.elements) * sizeof(float) + 63) / 64 * 64;
    entry.second.data.reset();
    void* data = std::aligned_alloc(64, std::max<size_t>(bytes, 64));
    if (data == nullptr) throw std::bad_alloc();
    entry.second.data.reset(static_cast<float*>(data));
  }
}

float* Constants::input(const std::string& name) { return inputs_.at(name).data.get(); }

float* Constants::timestep() {
  scratch_known_ = false;                                  // about to be overwritten
  scratch_.resize(static_cast<size_t>(table_.width) + 1);  // once: an engine may hold pointers into it
  return scratch_.data() + table_.width;
}

float* Constants::output(const std::string& name) {
  float* row = timestep() - table_.width;
  for (const TensorSpec& output : schedule_->outputs) {
    if (output.name == name) return row;
    row += output.elements;
  }
  throw Error(kInternal, "the schedule has no output " + name);
}

const uint8_t* Constants::find(float timestep) const {
  const auto& known = table_.timesteps;
  const auto at = std::lower_bound(known.begin(), known.end(), timestep);
  if (at != known.end() && *at == timestep) return table_.data + (at - known.begin()) * table_.width * int64_t{sizeof(float)};
  const auto kept = kept_.find(timestep);
  if (kept != kept_.end()) return reinterpret_cast<const uint8_t*>(kept->second.data());
  return scratch_known_ && scratch_timestep_ == timestep ? reinterpret_cast<const uint8_t*>(scratch_.data()) : nullptr;
}

bool Constants::room() const { return kept_.size() * static_cast<size_t>(table_.width) * sizeof(float) < kMaxKeptBytes; }

void Constants::forget() {
  if (!room()) kept_.clear();
}

void Constants::keep(float timestep) {
  const auto end = scratch_.begin() + table_.width;
  scratch_known_ = std::all_of(scratch_.begin(), end, [](float v) { return std::isfinite(v); });
  if (!scratch_known_)
    throw Error(kEngine, "the schedule gave a constant that is not finite for the timestep " + std::to_string(timestep) +
                             ": use a program whose timesteps the network was trained on");
  scratch_timestep_ = timestep;
  if (room()) kept_[timestep].assign(scratch_.begin(), end);
}

void Constants::fill(float timestep, int64_t samples) {
  if (inputs_.empty() || (filled_ >= samples && filled_timestep_ == timestep)) return;
  const uint8_t* row = find(timestep);
  for (auto& entry : inputs_) {
    const Input& input = entry.second;
    const size_t bytes = static_cast<size_t>(input.elements) * sizeof(float);
    for (int64_t i = 0; i < samples; ++i)
      std::memcpy(input.data.get() + i * input.elements, row + input.offset * int64_t{sizeof(float)}, bytes);
  }
  filled_timestep_ = timestep;
  filled_ = samples;
}

}  // namespace ae
