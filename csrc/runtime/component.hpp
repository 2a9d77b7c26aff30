// What a network of a bundle takes and returns.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "aigc_edge/aigc_edge.h"

namespace ae {

enum class Role { kSample, kTimestep, kClass, kConstant, kCondition, kGuidance, kTokens };

enum class ComponentKind {
  kDenoiser,
  kDecoder,
  kSchedule,    // evaluates the denoiser's constants for a timestep
  kTextEncoder  // the runtime checks text encoders and runs none
};

struct TensorSpec {
  std::string name;
  Role role;
  ae_dtype dtype;
  std::vector<int64_t> shape;  // of one sample: the batch is not in it
  int64_t elements = 1;        // of one sample
};

struct Component {
  ComponentKind kind;
  std::string name;
  std::vector<TensorSpec> inputs, outputs;
  std::map<std::string, std::string> formats;  // format → file
  int64_t receptive_field = 0;  // of a decoder: how many entries of the sample a pixel depends on to each side; 0: not known

  bool takes(Role role) const {
    for (const TensorSpec& input : inputs)
      if (input.role == role) return true;
    return false;
  }
};

}  // namespace ae
