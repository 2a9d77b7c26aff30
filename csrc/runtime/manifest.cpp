#include "runtime/manifest.hpp"

#include <algorithm>
#include <utility>

#include "core/error.hpp"
#include "core/json.hpp"
#include "runtime/members.hpp"
#include "runtime/text.hpp"

namespace ae {
namespace {

constexpr int64_t kMaxElements = int64_t{1} << 31;  // of one sample
constexpr size_t kMaxTensors = 4096;                // of one component, inputs or outputs
constexpr int kManifestVersion = 1;

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

std::map<std::string, FileEntry> parse_files(const Json& json) {
  std::map<std::string, FileEntry> files;
  for (const auto& [name, value] : json.object()) {
    if (!safe_name(name)) value.fail("leads out of the bundle");
    files[name] = {static_cast<size_t>(value["bytes"].integer(0, int64_t{1} << 52)), value["sha256"].string()};
  }
  return files;
}

std::vector<int64_t> parse_shape(const Json& json, const Size& size, bool batched, int64_t* elements) {
  const auto items = json.array();
  if (items.empty() || items.size() > 8) json.fail("must have 1 to 8 dimensions");
  if (batched && items[0].string() != "N") json.fail("must begin with \"N\", the batch");
  std::vector<int64_t> shape;
  *elements = 1;
  for (size_t i = batched ? 1 : 0; i < items.size(); ++i) {
    shape.push_back(parse_side(items[i], size, kMaxElements));
    *elements *= shape.back();
    if (*elements > kMaxElements) json.fail("has more than 2^31 elements");
  }
  return shape;
}

ae_dtype parse_dtype(const Json& json) {
  const std::string& name = json.string();
  if (name == "float32") return AE_FLOAT32;
  if (name == "int64") return AE_INT64;
  json.fail("is \"" + name + "\", the runtime feeds float32 and int64");
}

Role parse_role(const Json& json) {
  static constexpr std::pair<const char*, Role> kRoles[] = {
      {"sample", Role::kSample},       {"timestep", Role::kTimestep}, {"class", Role::kClass},  {"constant", Role::kConstant},
      {"condition", Role::kCondition}, {"guidance", Role::kGuidance}, {"tokens", Role::kTokens}};
  const std::string& name = json.string();
  for (const auto& [known, role] : kRoles)
    if (name == known) return role;
  json.fail("is \"" + name + "\", known roles are sample, timestep, class, constant, condition, guidance and tokens");
}

std::vector<TensorSpec> parse_tensors(const Json& json, const Size& size) {
  std::vector<TensorSpec> tensors;
  const auto items = json.array();
  if (items.size() > kMaxTensors) json.fail("must hold at most " + std::to_string(kMaxTensors) + " tensors");
  for (const Json& item : items) {
    TensorSpec spec;
    spec.name = item["name"].string();
    spec.role = parse_role(item["role"]);
    spec.dtype = parse_dtype(item["dtype"]);
    spec.shape = parse_shape(item["shape"], size, true, &spec.elements);
    tensors.push_back(std::move(spec));
  }
  return tensors;
}

Component parse_component(const std::string& name, const Json& json, const Size& size, const Manifest& manifest) {
  static constexpr std::pair<const char*, ComponentKind> kKinds[] = {
      {"denoiser", ComponentKind::kDenoiser},          {"decoder", ComponentKind::kDecoder},
      {"schedule", ComponentKind::kSchedule},          {"text_encoder", ComponentKind::kTextEncoder},
      {"text_encoder_2", ComponentKind::kTextEncoder}, {"text_encoder_3", ComponentKind::kTextEncoder}};
  const auto* kind = std::find_if(std::begin(kKinds), std::end(kKinds), [&](const auto& known) { return name == known.first; });
  if (kind == std::end(kKinds)) json.fail("is unknown; known are denoiser, decoder, schedule and text_encoder, _2 and _3");
  Component component;
  component.kind = kind->second;
  component.name = name;
  component.inputs = parse_tensors(json["inputs"], size);
  component.outputs = parse_tensors(json["outputs"], size);
  if (const auto field = json.find_value("receptive_field")) component.receptive_field = field->integer(0, 1 << 16);
  for (const auto& [format, value] : json["formats"].object()) {
    const std::string& file = component.formats[format] = value["file"].string();
    if (manifest.files.count(file) == 0) value["file"].fail("names " + file + ", which is not among manifest.files");
  }
  return component;
}

const char* name_of(Role role) {
  return role == Role::kTimestep    ? "timestep"
         : role == Role::kConstant  ? "constant"
         : role == Role::kCondition ? "condition"
                                    : "guidance scale";
}

// The executor fills what it knows: one sample, and for a denoiser the timestep; the rest would be garbage in the network.
void check_component(const Component& c, const std::vector<int64_t>& sample, const std::vector<int64_t>& output,
                     const Manifest& manifest) {
  const std::string where = "components." + c.name;
  int samples = 0, scales = 0;
  for (size_t i = 0; i < c.inputs.size(); ++i) {
    const TensorSpec& input = c.inputs[i];
    const bool extra = input.role == Role::kTimestep || input.role == Role::kConstant || input.role == Role::kCondition ||
                       input.role == Role::kGuidance;
    for (size_t j = 0; j < i; ++j)
      if (c.inputs[j].name == input.name) throw Error(kBundle, where + " has two inputs with the name " + input.name);
    scales += input.role == Role::kGuidance;
    if (input.role == Role::kSample) {
      ++samples;
      if (input.shape != sample || input.dtype != AE_FLOAT32)
        throw Error(kBundle, where + ": the input " + input.name + " must be float32 of the bundle's sample_shape");
    } else if (input.role == Role::kTokens) {
      throw Error(kBundle, where + ": the input " + input.name + " takes tokens, which only text encoders do");
    } else if (extra && c.kind != ComponentKind::kDenoiser) {
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
    } else if (input.role == Role::kClass && manifest.class_count == 0) {
      throw Error(kBundle, where + ": the input " + input.name + " takes a class, the bundle has none");
    }
  }
  if (samples != 1) throw Error(kBundle, where + " must have exactly one input of the role sample");
  if (scales > 1) throw Error(kBundle, where + " must have at most one input of the role guidance");
  if (c.outputs.size() != 1 || c.outputs[0].dtype != AE_FLOAT32 || c.outputs[0].shape != output)
    throw Error(kBundle, where + " must have one float32 output of the shape that follows it");
}

// Sizes of the networks, and what their shapes follow: the same, or nothing where the bundle's shapes are numbers.
struct Sizes {
  NetworkSizes networks;
  bool follow = false;

  Size followed(const std::string& component) const {
    return !follow ? Size{} : component == "decoder" ? networks.decoder : networks.denoiser;
  }
};

// A shape [C, H, W] of the image at another size.
std::vector<int64_t> resized(const std::vector<int64_t>& shape, const Size& size, const Size& scale) {
  return {shape[0], size.height / scale.height, size.width / scale.width};
}

// Pixels of the image for one entry of the sample; zero where that is no picture.
Size scale_of(const Manifest& m) {
  const auto &in = m.sample_shape, &out = m.output_shape;
  if (in.size() != 3 || out[1] % in[1] != 0 || out[2] % in[2] != 0) return {};
  return {out[1] / in[1], out[2] / in[2]};
}

Sizes parse_shapes(const Json& root, const OpenSizes& requested, Manifest& manifest) {
  const bool tiled = requested.tile.requested() || requested.denoising_tile.requested();
  if (requested.overlap >= 0 && !tiled)
    throw Error(kInvalidArgument, "no tiles that could overlap: give tile or denoising_tile, or leave overlap out");
  const auto list = root.find_value("sizes");
  const std::vector<Size> listed = list ? parse_sizes(*list) : std::vector<Size>();
  const Size size = choose_size(listed, tiled ? Size() : requested.image);
  int64_t elements = 0;
  manifest.sample_shape = parse_shape(root["sample_shape"], size, false, &elements);
  manifest.output_shape = parse_shape(root["output_shape"], size, false, &elements);
  if (manifest.output_shape.size() != 3) root["output_shape"].fail("must be [C, H, W]");
  const Size own{manifest.output_shape[1], manifest.output_shape[2]};
  if (list && !(own == size)) root["output_shape"].fail("must be [C, H, W] of the size, which follows from manifest.sizes");
  if (!tiled) {
    if (!list && requested.image.requested() && !(own == requested.image))
      throw Error(kInvalidArgument, "no size " + size_text(requested.image) + ": its images are " + size_text(own) +
                                        ", compile it with several sizes to choose among them");
    return {{own, own}, list.has_value()};
  }
  const Size scale = scale_of(manifest);
  if (!scale.requested())
    throw Error(kInvalidArgument, "no tiles: what its networks take is no image; leave tile and denoising_tile out");
  const Size image = requested.image.requested() ? requested.image : own;
  const Json components = root["components"];
  const NetworkSizes networks =
      choose_tiles(requested, image, scale, list ? listed : std::vector<Size>{own}, components.find_value("denoiser").has_value(),
                   components.find_value("decoder").has_value());
  for (auto* const shape : {&manifest.sample_shape, &manifest.output_shape}) {
    *shape = resized(*shape, image, shape == &manifest.sample_shape ? scale : Size{1, 1});
    if (shape->front() > kMaxElements / ((*shape)[1] * (*shape)[2]))
      throw Error(kInvalidArgument, "no size " + size_text(image) + ": it has more than 2^31 elements");
  }
  return {networks, list.has_value()};
}

// Whether the last two dimensions of a shape are those of the sample at its own or another resolution, such as in pixels.
bool lies_on(const std::vector<int64_t>& sample, const std::vector<int64_t>& shape) {
  const int64_t height = shape[shape.size() - 2], width = shape.back();
  const bool whole = height % sample[1] == 0 || sample[1] % height == 0;
  return height * width > 1 && whole && height * sample[2] == width * sample[1];
}

// A network that is evaluated on tiles must take them, and nothing else that lies on the image.
void check_tiles(const Component& c, const Size& tile, const Size& scale, const Manifest& m) {
  const std::vector<int64_t> sample = resized(m.sample_shape, tile, scale);
  const int64_t field = c.receptive_field, least = 2 * field + 1;
  if ((sample[1] < least && sample[1] < m.sample_shape[1]) || (sample[2] < least && sample[2] < m.sample_shape[2]))
    throw Error(kInvalidArgument, "no tile of " + size_text(tile) + ": pixels of its " + c.name + " depend on " +
                                      size_text(field * scale.height, field * scale.width) +
                                      " pixels to each side, so that tiles " + "must have at least " +
                                      size_text(least * scale.height, least * scale.width));
  for (const TensorSpec& input : c.inputs) {
    if (input.shape.size() < 3) continue;
    if (input.role == Role::kSample && input.shape.size() == 3 && input.shape != sample)
      throw Error(kInvalidArgument, "no tile of " + size_text(tile) + ": its " + c.name + " takes a sample of " +
                                        size_text(input.shape[1], input.shape[2]) + " entries alone, each " + size_text(scale) +
                                        " pixels: choose this tile, or compile with several sizes");
    if (input.role == Role::kCondition && lies_on(sample, input.shape))
      throw Error(kInvalidArgument, "no tiles of its " + c.name + ": the condition " + input.name +
                                        " lies on the image, and conditions are the same for all tiles");
  }
}

ConstantTable parse_constants(const Json& json, const Component& schedule, const Manifest& manifest) {
  ConstantTable table = parse_table(json, schedule);
  const auto found = manifest.files.find(table.file);
  if (found == manifest.files.end()) json.fail("names " + table.file + ", which is not among manifest.files");
  const size_t row = static_cast<size_t>(table.width) * sizeof(float), rows = table.timesteps.size(), bytes = found->second.bytes;
  if (row == 0 || bytes % row != 0 || bytes / row != rows)
    json.fail(": " + table.file + " has " + std::to_string(bytes) + " bytes, not " + std::to_string(rows) + " rows of " +
              std::to_string(table.width) + " float32");
  if (schedule.formats.size() != 1) throw Error(kBundle, "components.schedule must have one format");
  return table;
}

void parse_components(const Json& json, const Sizes& sizes, Manifest& manifest) {
  for (const auto& [name, value] : json.object()) {
    Component component = parse_component(name, value, sizes.followed(name), manifest);
    switch (component.kind) {
      case ComponentKind::kDenoiser:
        manifest.denoiser = std::move(component);
        break;
      case ComponentKind::kDecoder:
        manifest.decoder = std::move(component);
        break;
      case ComponentKind::kSchedule:
        manifest.constants = parse_constants(value["table"], component, manifest);
        manifest.schedule = std::move(component);
        break;
      case ComponentKind::kTextEncoder:
        manifest.text_encoders.push_back(std::move(component));
        break;
    }
  }
}

// Against the shapes of the image, or of a tile of it.
void check_network(const Component& c, const Size& size, const Manifest& m) {
  const std::vector<int64_t>& whole = c.kind == ComponentKind::kDecoder ? m.output_shape : m.sample_shape;
  if (size.height == m.output_shape[1] && size.width == m.output_shape[2]) return check_component(c, m.sample_shape, whole, m);
  const Size scale = scale_of(m);
  const std::vector<int64_t> sample = resized(m.sample_shape, size, scale);
  check_tiles(c, size, scale, m);
  check_component(c, sample, c.kind == ComponentKind::kDecoder ? resized(whole, size, {1, 1}) : sample, m);
}

void check_components(const Json& root, const NetworkSizes& sizes, const Manifest& m) {
  if (!m.denoiser && !m.decoder) root["components"].fail("has neither a denoiser nor a decoder");
  if (m.denoiser) check_network(*m.denoiser, sizes.denoiser, m);
  if (m.schedule && !m.denoiser)
    throw Error(kBundle, "components.schedule gives constants, but there is no denoiser to take them");
  if (m.denoiser) check_constants(*m.denoiser, m.schedule ? &*m.schedule : nullptr);
  if (m.decoder) check_network(*m.decoder, sizes.decoder, m);
  check_text(m.text_encoders, m.denoiser ? &*m.denoiser : nullptr, root.find_value("text"),
             [&m](const std::string& name) { return m.files.count(name) != 0; });
  if (!m.decoder && m.sample_shape != m.output_shape) root["output_shape"].fail("must be the sample_shape: there is no decoder");
}

}  // namespace

Manifest parse_manifest(std::string_view text, const OpenSizes& requested) {
  const JsonDocument document(text, "manifest");
  const Json root = document.root();
  if (root["format"].string() != "aigc-edge-bundle") root["format"].fail("must be \"aigc-edge-bundle\"");
  const auto version = root["version"].integer(1, 1 << 30);
  if (version > kManifestVersion)
    throw Error(kBundle, "its format version is " + std::to_string(version) + ", this aigc-edge reads up to " +
                             std::to_string(kManifestVersion));
  Manifest manifest;
  manifest.files = parse_files(root["files"]);
  const Sizes sizes = parse_shapes(root, requested, manifest);
  const auto range = root["output_range"].array();
  if (range.size() != 2) root["output_range"].fail("must be [low, high]");
  manifest.output_low = static_cast<float>(range[0].number());
  manifest.output_high = static_cast<float>(range[1].number());
  if (!(manifest.output_low < manifest.output_high)) root["output_range"].fail("must be [low, high] with low < high");
  if (const auto classes = root.find_value("classes")) manifest.class_count = (*classes)["count"].integer(1, 1 << 30);
  if (const auto calibration = root.find_value("calibration"))
    manifest.latents = LatentDistribution::parse((*calibration)["inputs"]);
  parse_components(root["components"], sizes, manifest);
  check_components(root, sizes.networks, manifest);
  check_unused_members(root);
  manifest.default_format = root["default_format"].string();
  for (const auto& [name, value] : root["programs"].object()) {
    Program program = parse_program(value);
    if (program.name != name) value["name"].fail("must be " + name);
    check_program(program, manifest);
    manifest.programs.emplace(name, std::move(program));
  }
  manifest.default_program = root["default_program"].string();
  if (manifest.programs.count(manifest.default_program) == 0) root["default_program"].fail("is not among the programs");
  return manifest;
}

void check_program(const Program& program, const Manifest& manifest) {
  if (!program.rows.empty() && !manifest.denoiser)
    throw Error(kBundle, "program " + program.name +
                             " has rows, but the bundle has no denoiser to evaluate in them: it takes programs without rows");
  if (program.rows.empty() && !manifest.decoder)
    throw Error(kBundle, "program " + program.name + " has no rows, so the bundle must have a decoder");
}

}  // namespace ae
