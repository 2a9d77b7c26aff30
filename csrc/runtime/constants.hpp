// Schedule constants: inputs of the denoiser that follow from the timestep alone, from the bundle's table or evaluated once.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/buffer.hpp"
#include "core/json.hpp"
#include "runtime/component.hpp"

namespace ae {

// The constants of every timestep of the bundle's own programs. A row holds them one after the other, in the order of the
// schedule's outputs.
struct ConstantTable {
  std::string file;               // [timesteps, width] float32, little-endian
  std::vector<float> timesteps;   // increasing
  int64_t width = 0;              // floats of one row
  const uint8_t* data = nullptr;  // [timesteps.size() * width * 4], not aligned
};

// Reads and checks components.schedule.table; `schedule` gives the constants. Throws Error(kBundle).
ConstantTable parse_table(const Json& json, const Component& schedule);
// Throws Error(kBundle) when an input of the role constant is no output of the schedule (which may be null) of its name and
// shape, or the schedule is not what evaluates constants from a timestep.
void check_constants(const Component& denoiser, const Component* schedule);

// The values of the denoiser's inputs of the role constant by timestep: from the table, or evaluated by the schedule.
class Constants {
 public:
  struct Input {
    int64_t offset, elements;  // in the values of a timestep
  };

  Constants(const Component* denoiser, const Component* schedule, const ConstantTable& table);

  bool any() const { return !inputs_.empty(); }
  const std::map<std::string, Input>& inputs() const { return inputs_; }

  // Before an evaluation of the schedule: writes the timestep for it. Its buffers stay where they are from the first call on.
  void begin(float timestep);
  float* timestep();                       // [1]: what it takes
  float* output(const std::string& name);  // [1, ...]: where it puts a constant
  // Afterwards: its constants are available until the next `begin`, and cached while there is room. Throws Error(kEngine) when
  // they are not finite.
  void store();

  // The float32 values of a timestep, not aligned; null where the schedule must be evaluated for it.
  const uint8_t* find(float timestep) const;
  void trim();            // empties a full cache; call it before a program, not within one
  bool has_room() const;  // whether the cache takes more

 private:
  const Component* schedule_;
  const ConstantTable& table_;
  std::map<std::string, Input> inputs_;
  std::map<float, std::vector<float>> cache_;
  Buffer<float> row_;       // [width + 1]: of the schedule's evaluation, and the timestep
  bool row_valid_ = false;  // whether it holds the constants of that timestep
};

}  // namespace ae
