#include "runtime/program.hpp"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "core/error.hpp"

namespace ae {
namespace {

// The executor computes in float32: a double that overflows it is refused here, not discovered as an infinity in a picture.
double number(const Json& object, std::string_view key, const std::string& path) {
  const std::string where = path + "." + std::string(key);
  const double value = object.at(key, path).number(where);
  if (!std::isfinite(static_cast<float>(value))) throw Error(kBundle, where + " is too large for float32");
  return value;
}

std::vector<double> vector(const Json& json, size_t count, const std::string& path) {
  const auto& items = json.array(path);
  if (items.size() != count)
    throw Error(kBundle, path + " must hold " + std::to_string(count) + " numbers, it holds " + std::to_string(items.size()));
  std::vector<double> out;
  out.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const std::string where = path + "[" + std::to_string(i) + "]";
    const double value = items[i].number(where);
    if (!std::isfinite(static_cast<float>(value))) throw Error(kBundle, where + " is too large for float32");
    out.push_back(value);
  }
  return out;
}

std::vector<double> matrix(const Json& json, size_t rows, size_t columns, const std::string& path) {
  const auto& items = json.array(path);
  if (items.size() != rows)
    throw Error(kBundle, path + " must have " + std::to_string(rows) + " rows, it has " + std::to_string(items.size()));
  std::vector<double> out;
  out.reserve(rows * columns);
  for (size_t i = 0; i < rows; ++i) {
    const auto row = vector(items[i], columns, path + "[" + std::to_string(i) + "]");
    out.insert(out.end(), row.begin(), row.end());
  }
  return out;
}

// All zeros means none of it: the kernel then has less to do.
std::vector<double> unless_zero(const Json& json, size_t slots, const std::string& path) {
  auto values = vector(json, slots, path);
  if (std::all_of(values.begin(), values.end(), [](double v) { return v == 0; })) values.clear();
  return values;
}

// Foreign text as a piece of one sentence.
std::string shown(const std::string& text) {
  size_t end = std::min<size_t>(text.size(), 60);
  while (end > 0 && end < text.size() && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;  // not inside UTF-8
  std::string out = text.substr(0, end);
  std::replace_if(out.begin(), out.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, '?');
  return end < text.size() ? out + "..." : out;
}

void refuse_unknown(const Json& json, std::initializer_list<std::string_view> known, const std::string& path) {
  for (const auto& member : json.object(path))
    if (std::find(known.begin(), known.end(), member.first) == known.end())
      throw Error(kBundle, path + " has an unknown member \"" + shown(member.first) + "\"");
}

Row parse_row(const Json& json, size_t slots, const std::string& path) {
  refuse_unknown(json,
                 {"sigma", "timestep", "c_in", "c_skip", "c_out", "guidance", "clip", "before", "before_noise", "after",
                  "after_noise", "after_output", "threshold", "level"},
                 path);
  Row row;
  if (json.find("sigma", path) != nullptr) number(json, "sigma", path);  // for readers only
  row.timestep = number(json, "timestep", path);
  row.c_in = number(json, "c_in", path);
  row.c_skip = number(json, "c_skip", path);
  row.c_out = number(json, "c_out", path);
  row.guidance = json.find("guidance", path) != nullptr ? number(json, "guidance", path) : 1.0;
  if (row.guidance < 0 || row.guidance > 1) throw Error(kBundle, path + ".guidance must lie between 0 and 1");
  if (const Json* clip = json.find("clip", path); clip != nullptr && !clip->is_null()) {
    const auto range = vector(*clip, 2, path + ".clip");
    if (static_cast<float>(range[0]) >= static_cast<float>(range[1]))
      throw Error(kBundle, path + ".clip must be [low, high] with low < high in float32");
    row.clip = ops::kClipRange;
    row.clip_low = range[0];
    row.clip_high = range[1];
  }
  if (const Json* threshold = json.find("threshold", path); threshold != nullptr && !threshold->is_null()) {
    const auto values = vector(*threshold, 2, path + ".threshold");
    if (row.clip != ops::kClipNone) throw Error(kBundle, path + " has a clip and a threshold, only one is allowed");
    if (values[0] < 0 || values[0] > 1 || values[1] < 1)
      throw Error(kBundle, path + ".threshold must be [quantile of 0 to 1, largest bound of at least 1]");
    row.clip = ops::kClipDynamic;
    row.clip_low = values[0];
    row.clip_high = values[1];
  }
  if (const Json* level = json.find("level", path); level != nullptr && !level->is_null()) {
    const auto values = vector(*level, 2, path + ".level");
    row.has_level = true;
    row.level[0] = values[0];
    row.level[1] = values[1];
  }
  if (const Json* raw = json.find("after_output", path); raw != nullptr && !raw->is_null())
    row.after_output = unless_zero(*raw, slots, path + ".after_output");
  if (const Json* before = json.find("before", path); before != nullptr && !before->is_null())
    row.before = matrix(*before, slots, slots, path + ".before");
  if (const Json* before = json.find("before_noise", path); before != nullptr && !before->is_null())
    row.before_noise = unless_zero(*before, slots, path + ".before_noise");
  row.after = matrix(json.at("after", path), slots, slots + 1, path + ".after");
  if (const Json* after = json.find("after_noise", path); after != nullptr && !after->is_null())
    row.after_noise = unless_zero(*after, slots, path + ".after_noise");
  return row;
}

}  // namespace

Program parse_program(const Json& json, const std::string& path) {
  const auto version = json.at("version", path).integer(path + ".version", 1, 1 << 30);
  if (version > kProgramVersion)
    throw Error(kBundle, path + " has version " + std::to_string(version) + ", this aigc-edge reads up to " +
                             std::to_string(kProgramVersion) + ": install a newer aigc-edge");
  refuse_unknown(json, {"version", "name", "slots", "init_scale", "guidance_scale", "guidance_rescale", "rows", "meta"}, path);
  Program program;
  program.name = json.at("name", path).string(path + ".name");
  if (program.name.empty()) throw Error(kBundle, path + ".name must not be empty");
  if (const Json* meta = json.find("meta", path); meta != nullptr) meta->object(path + ".meta");
  program.slots = static_cast<int>(json.at("slots", path).integer(path + ".slots", 1, ops::kMaxSlots));
  program.init_scale = number(json, "init_scale", path);
  program.guidance_scale = number(json, "guidance_scale", path);
  if (json.find("guidance_rescale", path) != nullptr) program.guidance_rescale = number(json, "guidance_rescale", path);
  if (program.guidance_rescale < 0 || program.guidance_rescale > 1)
    throw Error(kBundle, path + ".guidance_rescale must lie between 0 and 1");
  const auto& rows = json.at("rows", path).array(path + ".rows");
  if (rows.size() > kMaxRows)
    throw Error(kBundle, path + ".rows has " + std::to_string(rows.size()) + " rows, at most " + std::to_string(kMaxRows) +
                             " are allowed");
  program.rows.reserve(rows.size());
  for (size_t i = 0; i < rows.size(); ++i)
    program.rows.push_back(parse_row(rows[i], static_cast<size_t>(program.slots), path + ".rows[" + std::to_string(i) + "]"));
  return program;
}

}  // namespace ae
