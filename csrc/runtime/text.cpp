#include "runtime/text.hpp"

#include <algorithm>
#include <set>

#include "core/error.hpp"

namespace ae {
namespace {

constexpr int64_t kMaxTokenId = (int64_t{1} << 31) - 1;

void check_encoder(const Component& c) {
  const std::string where = "components." + c.name;
  if (c.inputs.size() != 1 || c.inputs[0].role != Role::kTokens || c.inputs[0].dtype != AE_INT64 || c.inputs[0].shape.size() != 1)
    throw Error(kBundle, where + " must have one input, tokens int64 of the shape [N, length]");
  if (c.outputs.empty()) throw Error(kBundle, where + " must have outputs, conditions");
  for (const TensorSpec& output : c.outputs)
    if (output.role != Role::kCondition || output.dtype != AE_FLOAT32)
      throw Error(kBundle, where + ": the output " + output.name + " must be a condition, float32");
}

// What the manifest says of one encoder: {"tokenizer": file, "length": tokens, "pad": id}.
void check_entry(const Json& json, const Component& encoder, const std::function<bool(const std::string&)>& has_file) {
  const std::string& file = json["tokenizer"].string();
  if (!has_file(file)) json["tokenizer"].fail("names " + file + ", which is not among manifest.files");
  const int64_t length = json["length"].integer(1, kMaxTokenId), taken = encoder.inputs[0].shape[0];
  if (length != taken)
    json["length"].fail("is " + std::to_string(length) + ", components." + encoder.name + " takes " + std::to_string(taken) +
                        " tokens");
  json["pad"].integer(0, kMaxTokenId);
}

}  // namespace

void check_text(const std::vector<Component>& encoders, const Component* denoiser, const std::optional<Json>& text,
                const std::function<bool(const std::string&)>& has_file) {
  if (encoders.empty() && text) text->fail("describes text encoders, but components has none");
  if (encoders.empty()) return;
  if (!text) throw Error(kBundle, "components." + encoders[0].name + " needs manifest.text, which is missing");
  if (denoiser == nullptr || !denoiser->takes(Role::kCondition))
    throw Error(kBundle, "components." + encoders[0].name + " gives conditions, but there is no denoiser to take them");
  const Json entries = (*text)["encoders"];
  std::set<std::string> conditions;
  for (const Component& encoder : encoders) {
    check_encoder(encoder);
    check_entry(entries[encoder.name], encoder, has_file);
    for (const TensorSpec& output : encoder.outputs) {
      if (!conditions.insert(output.name).second)
        throw Error(kBundle, "two outputs of text encoders have the name " + output.name);
      for (const TensorSpec& input : denoiser->inputs)
        if (input.name == output.name && (input.role != Role::kCondition || input.shape != output.shape))
          throw Error(kBundle, "components." + denoiser->name + ": the input " + input.name +
                                   " must be a condition of the shape that components." + encoder.name + " gives");
    }
  }
  for (const auto& [name, entry] : entries.object())
    if (std::none_of(encoders.begin(), encoders.end(), [&, &encoder = name](const Component& c) { return c.name == encoder; }))
      entry.fail("is not among the components");
  const Json negative = (*text)["negative"];
  if (negative.string() != "encode" && negative.string() != "zeros")
    negative.fail("is \"" + negative.string() + "\", known are encode and zeros");
}

}  // namespace ae
