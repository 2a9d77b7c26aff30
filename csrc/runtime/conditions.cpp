#include "runtime/conditions.hpp"

#include <algorithm>
#include <cstddef>
#include <set>
#include <vector>

#include "core/error.hpp"
#include "core/tensor.hpp"

namespace ae {
namespace {

constexpr size_t kSmallestTensor = offsetof(ae_tensor, data) + sizeof(void*);

std::string list(const Component* denoiser) {
  std::string names;
  if (denoiser == nullptr) return names;
  for (const TensorSpec& input : denoiser->inputs)
    if (input.role == Role::kCondition) names += (names.empty() ? "" : ", ") + input.name;
  return names;
}

void check_tensor(const ae_tensor& t, const TensorSpec& spec, int64_t samples, const std::string& what) {
  const std::string name = what + " " + spec.name;
  if (t.size >= sizeof t && t.device != AE_CPU)
    throw Error(kUnsupported, name + " is on a GPU: give it in host memory, it is copied");
  if (t.dtype != AE_FLOAT32) throw Error(kInvalidArgument, name + " has another dtype: give float32");
  if (t.data == nullptr || t.shape == nullptr || t.rank < 1 || t.rank > 8)
    throw Error(kInvalidArgument, name + " has no data, or no shape of 1 to 8 sizes: give both");
  const auto rank = static_cast<size_t>(t.rank);
  const bool fits = rank == spec.shape.size() + 1 && (t.shape[0] == samples || t.shape[0] == 1) &&
                    std::equal(spec.shape.begin(), spec.shape.end(), t.shape + 1);
  if (fits) return;
  std::vector<int64_t> wanted = {samples};
  wanted.insert(wanted.end(), spec.shape.begin(), spec.shape.end());
  throw Error(kInvalidArgument, name + " has the shape " + shape_text(t.shape, rank) + ": it must have " +
                                    shape_text(wanted.data(), wanted.size()) + ", or 1 in place of the first size");
}

}  // namespace

void check_conditions(const Component* denoiser, const ae_tensor* const* tensors, size_t count, int64_t samples,
                      const std::string& what) {
  if (count > 0 && tensors == nullptr) throw Error(kInvalidArgument, what + "s are null: give an array, or none");
  const std::string names = list(denoiser);
  std::set<std::string> seen;
  for (size_t i = 0; i < count; ++i) {
    const ae_tensor* t = tensors[i];
    if (t == nullptr || t->size < kSmallestTensor || t->name == nullptr)
      throw Error(kInvalidArgument, what + " " + std::to_string(i) + " is null, has no name or a wrong size: give an ae_tensor");
    if (names.empty()) throw Error(kInvalidArgument, what + " " + t->name + " was given: this bundle takes none, leave it out");
    const auto found = std::find_if(denoiser->inputs.begin(), denoiser->inputs.end(), [&](const TensorSpec& input) {
      return input.role == Role::kCondition && input.name == t->name;
    });
    if (found == denoiser->inputs.end())
      throw Error(kInvalidArgument, what + " " + t->name + " is unknown: this bundle takes " + names);
    if (!seen.insert(found->name).second) throw Error(kInvalidArgument, what + " " + found->name + " was given twice");
    check_tensor(*t, *found, samples, what);
  }
  if (names.empty()) return;
  for (const TensorSpec& input : denoiser->inputs)
    if (input.role == Role::kCondition && seen.count(input.name) == 0)
      throw Error(kInvalidArgument, what + " " + input.name + " is missing: this bundle takes " + names + ", give all of them");
}

Conditions::Conditions(const Component* denoiser, const Memory& memory) : memory_(memory) {
  if (denoiser == nullptr) return;
  for (const TensorSpec& input : denoiser->inputs)
    if (input.role == Role::kCondition) inputs_.emplace(input.name, Input{input.elements, {}});
}

void Conditions::reserve(int64_t samples) {
  for (auto& entry : inputs_) entry.second.data = {};  // the old ones first: the peak is smaller
  for (auto& entry : inputs_) entry.second.data = Buffer<float>(samples * entry.second.elements, memory_);
}

float* Conditions::input(const std::string& name) { return inputs_.at(name).data.data(); }

void Conditions::fill(const ae_tensor* const* tensors, size_t count, int64_t first, int64_t samples, int64_t at) {
  for (size_t k = 0; k < count; ++k) {
    const ae_tensor& t = *tensors[k];
    Input& input = inputs_.at(t.name);
    const auto row = static_cast<size_t>(input.elements) * sizeof(float);
    const bool one = t.shape[0] == 1;
    const float* from = static_cast<const float*>(t.data) + (one ? 0 : first * input.elements);
    float* to = input.data.data() + at * input.elements;
    memory_.upload(to, from, one ? row : static_cast<size_t>(samples) * row, one ? samples : 1);
  }
}

}  // namespace ae
