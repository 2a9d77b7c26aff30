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

// What is said of one encoder: {"tokenizer": file, "length": tokens, "pad": id}.
void check_entry(const Json& json, const Component& encoder, const std::string& where,
                 const std::function<bool(const std::string&)>& has_file) {
  const std::string& file = json.at("tokenizer", where).string(where + ".tokenizer");
  if (!has_file(file)) throw Error(kBundle, where + ".tokenizer names " + file + ", which is not among manifest.files");
  const int64_t length = json.at("length", where).integer(where + ".length", 1, kMaxTokenId);
  if (length != encoder.inputs[0].shape[0])
    throw Error(kBundle, where + ".length is " + std::to_string(length) + ", components." + encoder.name + " takes " +
                             std::to_string(encoder.inputs[0].shape[0]) + " tokens");
  json.at("pad", where).integer(where + ".pad", 0, kMaxTokenId);
}

}  // namespace

bool is_text_encoder(const std::string& component) {
  return component == "text_encoder" || component == "text_encoder_2" || component == "text_encoder_3";
}

void check_text(const std::vector<Component>& encoders, const Component* denoiser, const Json* text,
                const std::function<bool(const std::string&)>& has_file) {
  const std::string place = "manifest.text";
  if (encoders.empty() != (text == nullptr))
    throw Error(kBundle, encoders.empty() ? place + " describes text encoders, but components has none"
                                          : "components." + encoders[0].name + " needs manifest.text, which is missing");
  if (encoders.empty()) return;
  if (denoiser == nullptr || !denoiser->takes(Role::kCondition))
    throw Error(kBundle, "components." + encoders[0].name + " gives conditions, but there is no denoiser to take them");
  const Json& entries = text->at("encoders", place);
  std::set<std::string> given;
  for (const Component& encoder : encoders) {
    check_encoder(encoder);
    check_entry(entries.at(encoder.name, place + ".encoders"), encoder, place + ".encoders." + encoder.name, has_file);
    for (const TensorSpec& output : encoder.outputs) {
      if (!given.insert(output.name).second) throw Error(kBundle, "two outputs of text encoders have the name " + output.name);
      for (const TensorSpec& input : denoiser->inputs)
        if (input.name == output.name && (input.role != Role::kCondition || input.shape != output.shape))
          throw Error(kBundle, "components." + denoiser->name + ": the input " + input.name +
                                   " must be a condition of the shape that components." + encoder.name + " gives");
    }
  }
  for (const auto& entry : entries.object(place + ".encoders"))
    if (std::none_of(encoders.begin(), encoders.end(), [&](const Component& c) { return c.name == entry.first; }))
      throw Error(kBundle, place + ".encoders." + entry.first + " is not among the components");
  const std::string& negative = text->at("negative", place).string(place + ".negative");
  if (negative != "encode" && negative != "zeros")
    throw Error(kBundle, place + ".negative is \"" + negative + "\", known are encode and zeros");
}

}  // namespace ae
