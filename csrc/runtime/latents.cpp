#include "runtime/latents.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "core/error.hpp"

namespace ae {
namespace {

constexpr double kSqrtHalf = 0.70710678118654752440;

double bound(const Json& text, const std::string& number) {
  try {
    return JsonDocument(number, "a bound").root().number();  // independent of the locale
  } catch (const Error&) {
    text.fail("is \"" + text.string() + "\", where a bound is no number");
  }
}

}  // namespace

LatentDistribution LatentDistribution::parse(const Json& text) {
  const std::string& name = text.string();
  if (name == "normal" || name == "arrays") return {};
  if (name == "sphere") return {kSphere, 0, 0};
  const std::string prefix = "uniform:";
  const size_t middle = name.find(':', prefix.size());
  if (name.compare(0, prefix.size(), prefix) != 0 || middle == std::string::npos)
    text.fail("is \"" + name + "\": it must be normal, uniform:LOW:HIGH, sphere or arrays");
  const LatentDistribution uniform = {kUniform, bound(text, name.substr(prefix.size(), middle - prefix.size())),
                                      bound(text, name.substr(middle + 1))};
  constexpr double kMost = std::numeric_limits<float>::max();
  if (!(uniform.low < uniform.high && uniform.low >= -kMost && uniform.high <= kMost))
    text.fail("is \"" + name + "\": it must be uniform:LOW:HIGH with LOW < HIGH, numbers of float32");
  return uniform;
}

void LatentDistribution::transform(float* values, int64_t samples, int64_t elements) const {
  if (kind == kUniform) {
    const auto least = static_cast<float>(low), most = static_cast<float>(high);
    for (int64_t i = 0; i < samples * elements; ++i) {
      const double share = 0.5 * std::erfc(-double{values[i]} * kSqrtHalf);
      values[i] = std::clamp(static_cast<float>(share * (high - low) + low), least, most);
    }
  } else if (kind == kSphere) {
    for (float* sample = values; sample != values + samples * elements; sample += elements) {
      double squares = 0;
      for (int64_t i = 0; i < elements; ++i) squares += double{sample[i]} * double{sample[i]};
      const double scale = 1 / std::sqrt(squares / static_cast<double>(elements));
      for (int64_t i = 0; i < elements; ++i) sample[i] = static_cast<float>(sample[i] * scale);
    }
  }
}

}  // namespace ae
