#include "runtime/bundle.hpp"

#include <utility>
#include <vector>

#include "core/error.hpp"

namespace ae {

Bundle::Bundle(const std::string& path, const std::string& format, ae_verify verify, const OpenSizes& sizes)
    : path_(path), hash_(verify != AE_VERIFY_NONE), storage_(path), text_(storage_.manifest()), overlap_(sizes.overlap) {
  try {
    manifest_ = parse_manifest(text_, sizes);
  } catch (const Error& error) {
    if (error.status == kInvalidArgument) throw Error(kInvalidArgument, path_ + " has " + error.what());
    throw Error(kBundle, path_ + " cannot be used: " + error.what() +
                             "; it is damaged or of a newer version: compile it again, or install a newer aigc-edge");
  }
  storage_.list(manifest_.files);
  choose_format(format.empty() ? manifest_.default_format : format);
  for (const auto& entry : manifest_.files) {
    const auto used = [&, &name = entry.first](const Component* component) {
      if (component == nullptr) return false;
      const std::string& network = component->formats.at(format_);
      return name == network || name == network + ".data";  // weights beside an ONNX file
    };
    if (verify == AE_VERIFY_ALL || used(denoiser()) || used(decoder())) check(entry.first);
  }
  if (schedule() != nullptr) manifest_.constants.data = file(manifest_.constants.file).data;
}

void Bundle::choose_format(const std::string& format) {
  std::vector<const Component*> components;
  for (const Component* component : {denoiser(), decoder()})
    if (component != nullptr) components.push_back(component);
  for (const Component& encoder : manifest_.text_encoders) components.push_back(&encoder);
  for (const Component* component : components) {
    if (component->formats.count(format) != 0) continue;
    std::string known;
    for (const auto& entry : component->formats) known += (known.empty() ? "" : ", ") + entry.first;
    throw Error(kInvalidArgument, path_ + " has no format " + format +
                                      (component->kind == ComponentKind::kTextEncoder ? " of " + component->name : "") + ": " +
                                      (known.empty() ? "it has none" : "choose one of " + known) +
                                      ", or compile it with --format " + format);
  }
  format_ = format;
}

const Program& Bundle::program(const std::string& name) const {
  const auto& programs = manifest_.programs;
  const auto found = programs.find(name.empty() ? manifest_.default_program : name);
  if (found != programs.end()) return found->second;
  std::string known;
  for (const auto& entry : programs) known += (known.empty() ? "" : ", ") + entry.first;
  throw Error(kInvalidArgument, path_ + " has no program " + name + ": choose one of " + known);
}

void Bundle::add_program(Program program) {
  check_program(program, manifest_);
  manifest_.programs.insert_or_assign(program.name, std::move(program));
}

}  // namespace ae
