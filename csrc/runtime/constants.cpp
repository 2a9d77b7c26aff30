#include "runtime/constants.hpp"

#include <algorithm>
#include <cmath>

#include "core/error.hpp"

namespace ae {
namespace {

constexpr size_t kMaxTimesteps = 1000000;
constexpr int64_t kMaxWidth = int64_t{1} << 31;
constexpr size_t kMaxCachedBytes = size_t{1} << 28;

int64_t width_of(const Component& schedule) {
  int64_t width = 0;
  for (const TensorSpec& output : schedule.outputs) {
    width += output.elements;
    if (width > kMaxWidth) throw Error(kBundle, "components.schedule gives more than 2^31 constants");
  }
  return width;
}

}  // namespace

ConstantTable parse_table(const Json& json, const Component& schedule) {
  ConstantTable table;
  table.width = width_of(schedule);
  table.file = json["file"].string();
  const auto timesteps = json["timesteps"].array();
  if (timesteps.size() > kMaxTimesteps) json["timesteps"].fail("holds more than " + std::to_string(kMaxTimesteps));
  table.timesteps.reserve(timesteps.size());
  for (const Json& item : timesteps) {
    const auto value = static_cast<float>(item.number());
    if (!std::isfinite(value)) item.fail("is too large for float32");
    if (!table.timesteps.empty() && !(table.timesteps.back() < value)) item.fail("must be larger than the one before it");
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

Constants::Constants(const Component* denoiser, const Component* schedule, const ConstantTable& table)
    : schedule_(schedule), table_(table) {
  if (denoiser == nullptr || schedule == nullptr) return;
  for (const TensorSpec& input : denoiser->inputs) {
    if (input.role != Role::kConstant) continue;
    int64_t offset = 0;
    for (const TensorSpec& output : schedule->outputs) {
      if (output.name == input.name) inputs_.emplace(input.name, Input{offset, output.elements});
      offset += output.elements;
    }
  }
}

void Constants::begin(float timestep) {
  row_valid_ = false;
  if (row_.size() == 0) row_ = Buffer<float>(table_.width + 1);
  row_[table_.width] = timestep;
}

float* Constants::timestep() { return row_.data() + table_.width; }

float* Constants::output(const std::string& name) {
  float* constant = row_.data();
  for (const TensorSpec& output : schedule_->outputs) {
    if (output.name == name) return constant;
    constant += output.elements;
  }
  throw Error(kInternal, "the schedule has no output " + name);
}

const uint8_t* Constants::find(float timestep) const {
  const auto& known = table_.timesteps;
  const auto at = std::lower_bound(known.begin(), known.end(), timestep);
  if (at != known.end() && *at == timestep) return table_.data + (at - known.begin()) * table_.width * int64_t{sizeof(float)};
  const auto cached = cache_.find(timestep);
  if (cached != cache_.end()) return reinterpret_cast<const uint8_t*>(cached->second.data());
  return row_valid_ && row_[table_.width] == timestep ? reinterpret_cast<const uint8_t*>(row_.data()) : nullptr;
}

bool Constants::has_room() const { return cache_.size() * static_cast<size_t>(table_.width) * sizeof(float) < kMaxCachedBytes; }

void Constants::trim() {
  if (!has_room()) cache_.clear();
}

void Constants::store() {
  const float *begin = row_.data(), *end = begin + table_.width, timestep = *end;
  row_valid_ = std::all_of(begin, end, [](float v) { return std::isfinite(v); });
  if (!row_valid_)
    throw Error(kEngine, "the schedule gave a constant that is not finite for the timestep " + number_text(timestep) +
                             ": use a program whose timesteps the network was trained on");
  if (has_room()) cache_[timestep].assign(begin, end);
}

}  // namespace ae
