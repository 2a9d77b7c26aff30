// The distribution of the latents that a generator of one evaluation was trained on.
#pragma once

#include <cstdint>

#include "core/json.hpp"

namespace ae {

struct LatentDistribution {
  enum Kind { kNormal, kUniform, kSphere };
  Kind kind = kNormal;
  double low = -1, high = 1;  // of kUniform

  // The member "inputs" of a manifest's calibration: "normal", "uniform:LOW:HIGH", "sphere", or "arrays", for which unit normal
  // latents stand in. Throws Error(kBundle) for another text.
  static LatentDistribution parse(const Json& text);

  // Turns unit normal numbers [samples, elements] into such latents: the uniform ones by the cumulative distribution function,
  // those on the sphere of radius sqrt(elements) by the root mean square of a sample.
  void transform(float* values, int64_t samples, int64_t elements) const;
};

}  // namespace ae
