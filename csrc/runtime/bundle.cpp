#include "runtime/bundle.hpp"

#include <sys/stat.h>

#include <algorithm>

#include "core/error.hpp"
#include "core/sha256.hpp"
#include "core/zip.hpp"
#include "runtime/text.hpp"

namespace ae {
namespace {

constexpr const char* kManifest = "manifest.json";
constexpr const char* kManifestHash = "manifest.sha256";
constexpr int64_t kMaxElements = int64_t{1} << 31;  // of one sample
constexpr int kBundleVersion = 1;

// A name must stay inside the bundle.
bool safe_name(const std::string& name) {
  if (name.empty() || name.front() == '/' || name.back() == '/' || name.find('\\') != std::string::npos ||
      name.find('\0') != std::string::npos)
    return false;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    const std::string part = name.substr(begin, end - begin);
    if (part.empty() || part == "." || part == "..") return false;
    begin = end + 1;
  }
  return true;
}

std::vector<int64_t> parse_shape(const Json& json, const Size& size, const std::string& path, bool batched, int64_t* elements) {
  const auto& items = json.array(path);
  if (items.empty() || items.size() > 8) throw Error(kBundle, path + " must have 1 to 8 dimensions");
  if (batched && items[0].string(path + "[0]") != "N") throw Error(kBundle, path + " must begin with \"N\", the batch");
  std::vector<int64_t> shape;
  *elements = 1;
  for (size_t i = batched ? 1 : 0; i < items.size(); ++i) {
    shape.push_back(parse_side(items[i], size, kMaxElements, path + "[" + std::to_string(i) + "]"));
    *elements *= shape.back();
    if (*elements > kMaxElements) throw Error(kBundle, path + " has more than 2^31 elements");
  }
  return shape;
}

ae_dtype parse_dtype(const std::string& name, const std::string& path) {
  if (name == "float32") return AE_FLOAT32;
  if (name == "int64") return AE_INT64;
  throw Error(kBundle, path + " is \"" + name + "\", the runtime feeds float32 and int64");
}

Role parse_role(const std::string& name, const std::string& path) {
  if (name == "sample") return Role::kSample;
  if (name == "timestep") return Role::kTimestep;
  if (name == "class") return Role::kClass;
  if (name == "constant") return Role::kConstant;
  if (name == "condition") return Role::kCondition;
  if (name == "guidance") return Role::kGuidance;
  if (name == "tokens") return Role::kTokens;
  throw Error(kBundle,
              path + " is \"" + name + "\", known roles are sample, timestep, class, constant, condition, guidance and tokens");
}

std::vector<TensorSpec> parse_tensors(const Json& json, const Size& size, const std::string& path) {
  std::vector<TensorSpec> tensors;
  const auto& items = json.array(path);
  for (size_t i = 0; i < items.size(); ++i) {
    const std::string where = path + "[" + std::to_string(i) + "]";
    TensorSpec spec;
    spec.name = items[i].at("name", where).string(where + ".name");
    spec.role = parse_role(items[i].at("role", where).string(where + ".role"), where + ".role");
    spec.dtype = parse_dtype(items[i].at("dtype", where).string(where + ".dtype"), where + ".dtype");
    spec.shape = parse_shape(items[i].at("shape", where), size, where + ".shape", true, &spec.elements);
    tensors.push_back(std::move(spec));
  }
  return tensors;
}

const char* name_of(Role role) {
  return role == Role::kConstant ? "constant" : role == Role::kCondition ? "condition" : "guidance scale";
}

// The executor fills what it knows: one sample, and for a denoiser the timestep; the rest would be garbage in the network.
void check_component(const Component& c, const std::vector<int64_t>& sample, const std::vector<int64_t>& output,
                     int64_t classes) {
  const std::string where = "components." + c.name;
  int samples = 0, scales = 0;
  for (size_t i = 0; i < c.inputs.size(); ++i) {
    const TensorSpec& input = c.inputs[i];
    const bool extra = input.role == Role::kConstant || input.role == Role::kCondition || input.role == Role::kGuidance;
    for (size_t j = 0; j < i; ++j)
      if (c.inputs[j].name == input.name) throw Error(kBundle, where + " has two inputs with the name " + input.name);
    scales += input.role == Role::kGuidance;
    if (input.role == Role::kSample) {
      ++samples;
      if (input.shape != sample || input.dtype != AE_FLOAT32)
        throw Error(kBundle, where + ": the input " + input.name + " must be float32 of the bundle's sample_shape");
    } else if (input.role == Role::kTokens) {
      throw Error(kBundle, where + ": the input " + input.name + " takes tokens, which only text encoders do");
    } else if (extra && c.name != "denoiser") {
      throw Error(kBundle,
                  where + ": the input " + input.name + " is a " + name_of(input.role) + ", which only the denoiser takes");
    } else if (input.role == Role::kConstant) {
      continue;  // check_constants
    } else if (input.role == Role::kCondition) {
      if (input.dtype != AE_FLOAT32) throw Error(kBundle, where + ": the condition " + input.name + " must be float32");
    } else if (!input.shape.empty()) {
      throw Error(kBundle, where + ": the input " + input.name + " must have the shape [N]");
    } else if ((input.role == Role::kClass) != (input.dtype == AE_INT64)) {
      throw Error(kBundle, where + ": a timestep and a guidance scale are float32 and a class is int64, not so " + input.name);
    } else if (input.role == Role::kClass && classes == 0) {
      throw Error(kBundle, where + ": the input " + input.name + " takes a class, the bundle has none");
    }
  }
  if (samples != 1) throw Error(kBundle, where + " must have exactly one input of the role sample");
  if (scales > 1) throw Error(kBundle, where + " must have at most one input of the role guidance");
  if (c.outputs.size() != 1 || c.outputs[0].dtype != AE_FLOAT32 || c.outputs[0].shape != output)
    throw Error(kBundle, where + " must have one float32 output of the shape that follows it");
}

Component parse_component(const std::string& name, const Json& json, const Size& size) {
  const std::string path = "components." + name;
  Component component;
  component.name = name;
  component.inputs = parse_tensors(json.at("inputs", path), size, path + ".inputs");
  component.outputs = parse_tensors(json.at("outputs", path), size, path + ".outputs");
  for (const auto& [format, value] : json.at("formats", path).object(path + ".formats")) {
    const std::string where = path + ".formats." + format;
    component.formats[format] = value.at("file", where).string(where + ".file");
  }
  return component;
}

}  // namespace

Bundle::Bundle(const std::string& path, const std::string& format, ae_verify verify, Size size)
    : path_(path), format_(format), size_(size), hash_(verify != AE_VERIFY_NONE) {
  struct stat status = {};
  if (stat(path.c_str(), &status) != 0)
    throw Error(kBundle, "there is no bundle at " + path + ": give the folder or file that `aigc-edge compile` wrote");
  if (!S_ISDIR(status.st_mode)) open_archive();
  read_manifest();
  try {
    parse(Json::parse(manifest_, kManifest));
  } catch (const Error& error) {
    if (error.status != kBundle) throw;
    throw Error(kBundle, path_ + " cannot be used: " + error.what() +
                             "; it is damaged or of a newer version: compile it again, or install a newer aigc-edge");
  }
  for (auto& [name, file] : files_) {
    const auto uses = [&, &name = name](const std::optional<Component>& c) {
      if (!c || c->formats.count(format_) == 0) return false;
      return name == c->formats.at(format_) || name == c->formats.at(format_) + ".data";  // weights beside an ONNX file
    };
    if (verify == AE_VERIFY_ALL || uses(denoiser_) || uses(decoder_)) check(name, file, hash_);
  }
  if (schedule_) constants_.data = file(constants_.file).data;
}

void Bundle::open_archive() {
  archive_ = std::make_unique<MappedFile>(path_);
  if (!looks_like_zip(archive_->data(), archive_->size()))
    throw Error(kBundle, path_ + " is not a bundle: a bundle is a folder with a manifest.json, or one uncompressed zip of it");
  for (auto& entry : list_zip(archive_->data(), archive_->size(), path_)) {
    File file;
    file.bytes = entry.bytes;
    file.offset = entry.offset;
    if (!files_.emplace(entry.name, std::move(file)).second)
      throw Error(kBundle, path_ + " holds " + entry.name + " twice: it is damaged; copy it again");
  }
}

void Bundle::read_manifest() {
  const auto text = [this](const char* name) {
    if (archive_) {
      const auto found = files_.find(name);
      if (found == files_.end()) throw Error(kBundle, path_ + " is not a bundle: it holds no " + name);
      return std::string(reinterpret_cast<const char*>(archive_->data() + found->second.offset), found->second.bytes);
    }
    struct stat status = {};
    if (stat((path_ + "/" + name).c_str(), &status) != 0)
      throw Error(kBundle, path_ + " is not a bundle: it holds no " + name + "; give a folder that `aigc-edge compile` wrote");
    const MappedFile file(path_ + "/" + name);
    return std::string(reinterpret_cast<const char*>(file.data()), file.size());
  };
  manifest_ = text(kManifest);
  const std::string wanted = text(kManifestHash);
  if (wanted.substr(0, 64) != sha256_hex(manifest_.data(), manifest_.size()))
    throw Error(kBundle, path_ +
                             ": manifest.json does not match manifest.sha256: it was cut off or changed after it was written; "
                             "copy the bundle again or compile it again");
}

void Bundle::parse_shapes(const Json& root) {
  const std::string m = "manifest";
  const std::vector<Size> sizes = parse_sizes(root.find("sizes", m), "manifest.sizes");
  const Size asked = size_;
  size_ = choose_size(sizes, asked, path_);
  int64_t elements = 0;
  sample_shape_ = parse_shape(root.at("sample_shape", m), size_, "manifest.sample_shape", false, &elements);
  output_shape_ = parse_shape(root.at("output_shape", m), size_, "manifest.output_shape", false, &elements);
  if (output_shape_.size() != 3) throw Error(kBundle, "manifest.output_shape must be [C, H, W]");
  const int64_t height = output_shape_[1], width = output_shape_[2];
  if (!sizes.empty() && (height != size_.height || width != size_.width))
    throw Error(kBundle, "manifest.output_shape must be [C, H, W] of the size, which follows from manifest.sizes");
  if (sizes.empty() && asked.height != 0 && (height != asked.height || width != asked.width))
    throw Error(kInvalidArgument, path_ + " has no size " + size_text(asked.height, asked.width) + ": its images are " +
                                      size_text(height, width) + ", compile it with several sizes to choose among them");
}

void Bundle::parse(const Json& root) {
  const std::string m = "manifest";
  if (root.at("format", m).string("manifest.format") != "aigc-edge-bundle")
    throw Error(kBundle, "manifest.format must be \"aigc-edge-bundle\"");
  const auto version = root.at("version", m).integer("manifest.version", 1, 1 << 30);
  if (version > kBundleVersion)
    throw Error(kBundle, "its format version is " + std::to_string(version) + ", this aigc-edge reads up to " +
                             std::to_string(kBundleVersion));

  std::map<std::string, File> listed;
  for (const auto& [name, value] : root.at("files", m).object("manifest.files")) {
    const std::string where = "manifest.files." + name;
    if (!safe_name(name)) throw Error(kBundle, where + " leads out of the bundle");
    File file;
    file.bytes = static_cast<size_t>(value.at("bytes", where).integer(where + ".bytes", 0, int64_t{1} << 52));
    file.sha256 = value.at("sha256", where).string(where + ".sha256");
    if (archive_) {
      const auto found = files_.find(name);
      if (found == files_.end()) throw Error(kBundle, "the file " + name + " is missing");
      if (found->second.bytes != file.bytes) throw Error(kBundle, "the file " + name + " has the wrong size");
      file.offset = found->second.offset;
    }
    listed.emplace(name, std::move(file));
  }
  files_ = std::move(listed);

  parse_shapes(root);
  const auto& range = root.at("output_range", m).array("manifest.output_range");
  if (range.size() != 2) throw Error(kBundle, "manifest.output_range must be [low, high]");
  output_low_ = static_cast<float>(range[0].number("manifest.output_range[0]"));
  output_high_ = static_cast<float>(range[1].number("manifest.output_range[1]"));
  if (!(output_low_ < output_high_)) throw Error(kBundle, "manifest.output_range must be [low, high] with low < high");
  if (const Json* classes = root.find("classes", m); classes != nullptr && !classes->is_null())
    class_count_ = classes->at("count", "manifest.classes").integer("manifest.classes.count", 1, 1 << 30);

  for (const auto& [name, value] : root.at("components", m).object("manifest.components")) {
    Component component = parse_component(name, value, size_);
    for (const auto& [format, file] : component.formats)
      if (files_.count(file) == 0)
        throw Error(kBundle,
                    "components." + name + ".formats." + format + " names " + file + ", which is not among manifest.files");
    if (name == "denoiser") {
      denoiser_ = std::move(component);
    } else if (name == "decoder") {
      decoder_ = std::move(component);
    } else if (name == "schedule") {
      const std::string where = "components.schedule.table";
      constants_ = parse_table(value.at("table", "components.schedule"), component, where);
      const auto found = files_.find(constants_.file);
      if (found == files_.end())
        throw Error(kBundle, where + " names " + constants_.file + ", which is not among manifest.files");
      const size_t row = static_cast<size_t>(constants_.width) * sizeof(float), rows = constants_.timesteps.size();
      if (row == 0 || found->second.bytes % row != 0 || found->second.bytes / row != rows)
        throw Error(kBundle, where + ": " + constants_.file + " has " + std::to_string(found->second.bytes) + " bytes, not " +
                                 std::to_string(rows) + " rows of " + std::to_string(constants_.width) + " float32");
      if (component.formats.size() != 1) throw Error(kBundle, "components.schedule must have one format");
      schedule_ = std::move(component);
    } else if (is_text_encoder(name)) {
      text_encoders_.push_back(std::move(component));
    } else {
      throw Error(kBundle,
                  "components." + name + " is unknown; known are denoiser, decoder, schedule and text_encoder, _2 and _3");
    }
  }
  if (!denoiser_ && !decoder_) throw Error(kBundle, "manifest.components has neither a denoiser nor a decoder");
  if (denoiser_) check_component(*denoiser_, sample_shape_, sample_shape_, class_count_);
  if (schedule_ && !denoiser_) throw Error(kBundle, "components.schedule gives constants, but there is no denoiser to take them");
  if (denoiser_) check_constants(*denoiser_, schedule());
  if (decoder_) check_component(*decoder_, sample_shape_, output_shape_, class_count_);
  const Json* text = root.find("text", m);
  check_text(text_encoders_, denoiser(), text == nullptr || text->is_null() ? nullptr : text,
             [this](const std::string& name) { return files_.count(name) != 0; });
  if (!decoder_ && sample_shape_ != output_shape_)
    throw Error(kBundle, "manifest.output_shape must be the sample_shape: there is no decoder");

  if (format_.empty()) format_ = root.at("default_format", m).string("manifest.default_format");
  std::vector<const Component*> in_format = {denoiser(), decoder()};
  for (const Component& encoder : text_encoders_) in_format.push_back(&encoder);
  for (const Component* component : in_format) {
    if (component == nullptr || component->formats.count(format_) != 0) continue;
    std::string known;
    for (const auto& entry : component->formats) known += (known.empty() ? "" : ", ") + entry.first;
    throw Error(kInvalidArgument, path_ + " has no format " + format_ +
                                      (is_text_encoder(component->name) ? " of " + component->name : "") + ": choose one of " +
                                      known + ", or compile it with --format " + format_);
  }
  for (const auto& [name, value] : root.at("programs", m).object("manifest.programs")) {
    Program program = parse_program(value, "programs." + name);
    if (program.name != name) throw Error(kBundle, "programs." + name + ".name must be " + name);
    add_program(std::move(program));
  }
  default_program_ = root.at("default_program", m).string("manifest.default_program");
  if (programs_.count(default_program_) == 0) throw Error(kBundle, "manifest.default_program is not among the programs");
}

void Bundle::check(const std::string& name, File& file, bool hash) {
  if (file.checked) return;
  const uint8_t* data = nullptr;
  if (archive_) {
    data = archive_->data() + file.offset;
  } else {
    auto mapped = std::make_unique<MappedFile>(path_ + "/" + name);
    if (mapped->size() != file.bytes)
      throw Error(kBundle, path_ + "/" + name + " has " + std::to_string(mapped->size()) + " bytes, the manifest says " +
                               std::to_string(file.bytes) +
                               ": it is truncated or of another bundle; copy it again or compile it again");
    file.owned = std::move(mapped);
    data = file.owned->data();
  }
  if (hash && sha256_hex(data, file.bytes, MappedFile::release) != file.sha256)
    throw Error(kBundle,
                path_ + "/" + name +
                    " does not match its hash in the manifest: it was changed or damaged; copy it again or compile it again");
  file.checked = true;
}

Bytes Bundle::file(const std::string& name) {
  const auto found = files_.find(name);
  if (found == files_.end()) throw Error(kInvalidArgument, path_ + " has no file " + name + ": see \"files\" in its manifest");
  File& file = found->second;
  check(name, file, hash_);
  return {archive_ ? archive_->data() + file.offset : file.owned->data(), file.bytes};
}

const Program& Bundle::program(const std::string& name) const {
  const auto found = programs_.find(name.empty() ? default_program_ : name);
  if (found != programs_.end()) return found->second;
  std::string known;
  for (const auto& entry : programs_) known += (known.empty() ? "" : ", ") + entry.first;
  throw Error(kInvalidArgument, path_ + " has no program " + name + ": choose one of " + known);
}

void Bundle::add_program(Program program) {
  if (!program.rows.empty() && !denoiser_)
    throw Error(kBundle, "program " + program.name +
                             " has rows, but the bundle has no denoiser to evaluate in them: it takes programs without rows");
  if (program.rows.empty() && !decoder_)
    throw Error(kBundle, "program " + program.name + " has no rows, so the bundle must have a decoder");
  programs_.insert_or_assign(program.name, std::move(program));
}

}  // namespace ae
