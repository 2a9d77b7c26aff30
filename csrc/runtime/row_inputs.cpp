#include "runtime/row_inputs.hpp"

namespace ae {

RowInputs::RowInputs(const Constants& constants, int64_t rows, int64_t samples, const Memory& memory)
    : values_(constants),
      rows_(rows),
      samples_(samples),
      memory_(memory),
      timesteps_(rows * stride(1), memory),
      guidance_(rows * stride(1), memory) {
  for (const auto& [name, input] : constants.inputs()) constants_[name] = Buffer<float>(rows * stride(input.elements), memory);
}

float* RowInputs::constant(const std::string& name, int64_t row) {
  return constants_.at(name).data() + row * stride(values_.inputs().at(name).elements);
}

void RowInputs::fill(int64_t row, float timestep, float weight, const uint8_t* constants, int64_t samples) {
  memory_.upload(this->timestep(row), &timestep, sizeof timestep, samples);
  memory_.upload(guidance(row), &weight, sizeof weight, samples);
  if (constants == nullptr || (rows_ == 1 && filled_ >= samples && filled_timestep_ == timestep)) return;
  for (auto& [name, data] : constants_) {
    const Constants::Input& input = values_.inputs().at(name);
    memory_.upload(data.data() + row * stride(input.elements), constants + input.offset * int64_t{sizeof(float)},
                   static_cast<size_t>(input.elements) * sizeof(float), samples);
  }
  filled_timestep_ = timestep;
  filled_ = samples;
}

}  // namespace ae
