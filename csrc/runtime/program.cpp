#include "runtime/program.hpp"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "core/error.hpp"

namespace ae {
namespace {

// The executor computes in float32: a double that overflows it is refused here, not discovered as an infinity in a picture.
double number(const Json& json) {
  const double value = json.number();
  if (!std::isfinite(static_cast<float>(value))) json.fail("is too large for float32");
  return value;
}

std::vector<double> vector(const Json& json, size_t size) {
  const auto items = json.array();
  if (items.size() != size) json.fail("must hold " + std::to_string(size) + " numbers, it holds " + std::to_string(items.size()));
  std::vector<double> values;
  values.reserve(size);
  for (const Json& item : items) values.push_back(number(item));
  return values;
}

std::vector<double> matrix(const Json& json, size_t rows, size_t columns) {
  const auto items = json.array();
  if (items.size() != rows) json.fail("must have " + std::to_string(rows) + " rows, it has " + std::to_string(items.size()));
  std::vector<double> values;
  values.reserve(rows * columns);
  for (const Json& item : items) {
    const auto row = vector(item, columns);
    values.insert(values.end(), row.begin(), row.end());
  }
  return values;
}

// Of a member that may be missing or null. All zeros are as good as none, and the kernel then has less to do.
std::vector<double> optional_vector(const Json& json, std::string_view name, size_t slots) {
  const auto member = json.find_value(name);
  if (!member) return {};
  auto values = vector(*member, slots);
  if (std::all_of(values.begin(), values.end(), [](double v) { return v == 0; })) values.clear();
  return values;
}

void parse_clip(const Json& json, Row& row) {
  const auto clip = json.find_value("clip"), threshold = json.find_value("threshold");
  if (clip && threshold) json.fail("has a clip and a threshold, only one is allowed");
  if (!clip && !threshold) return;
  const auto values = vector(clip ? *clip : *threshold, 2);
  if (clip && static_cast<float>(values[0]) >= static_cast<float>(values[1]))
    clip->fail("must be [low, high] with low < high in float32");
  if (threshold && (values[0] < 0 || values[0] > 1 || values[1] < 1))
    threshold->fail("must be [quantile of 0 to 1, largest bound of at least 1]");
  row.clip = clip ? ops::kClipRange : ops::kClipDynamic;
  row.clip_low = values[0];
  row.clip_high = values[1];
}

Row parse_row(const Json& json, size_t slots) {
  json.allow_only({"sigma", "timestep", "c_in", "c_skip", "c_out", "guidance", "clip", "before", "before_noise", "after",
                   "after_noise", "after_output", "threshold", "level"});
  Row row;
  if (const auto sigma = json.find("sigma")) number(*sigma);  // for readers only
  row.timestep = number(json["timestep"]);
  row.c_in = number(json["c_in"]);
  row.c_skip = number(json["c_skip"]);
  row.c_out = number(json["c_out"]);
  if (const auto guidance = json.find("guidance")) {
    row.guidance = number(*guidance);
    if (row.guidance < 0 || row.guidance > 1) guidance->fail("must lie between 0 and 1");
  }
  parse_clip(json, row);
  if (const auto level = json.find_value("level")) {
    const auto values = vector(*level, 2);
    row.has_level = true;
    row.level[0] = values[0];
    row.level[1] = values[1];
  }
  if (const auto before = json.find_value("before")) row.before = matrix(*before, slots, slots);
  row.before_noise = optional_vector(json, "before_noise", slots);
  row.after = matrix(json["after"], slots, slots + 1);
  row.after_output = optional_vector(json, "after_output", slots);
  row.after_noise = optional_vector(json, "after_noise", slots);
  return row;
}

}  // namespace

Program parse_program(const Json& json) {
  const auto version = json["version"].integer(1, 1 << 30);
  if (version > kProgramVersion)
    json.fail("has version " + std::to_string(version) + ", this aigc-edge reads up to " + std::to_string(kProgramVersion) +
              ": install a newer aigc-edge");
  json.allow_only({"version", "name", "slots", "init_scale", "guidance_scale", "guidance_rescale", "rows", "meta"});
  Program program;
  program.name = json["name"].string();
  if (program.name.empty()) json["name"].fail("must not be empty");
  if (const auto meta = json.find("meta")) meta->object();
  program.slots = static_cast<int>(json["slots"].integer(1, ops::kMaxSlots));
  program.init_scale = number(json["init_scale"]);
  program.guidance_scale = number(json["guidance_scale"]);
  if (const auto rescale = json.find("guidance_rescale")) {
    program.guidance_rescale = number(*rescale);
    if (program.guidance_rescale < 0 || program.guidance_rescale > 1) rescale->fail("must lie between 0 and 1");
  }
  const auto rows = json["rows"].array();
  if (rows.size() > kMaxRows)
    json["rows"].fail("has " + std::to_string(rows.size()) + " rows, at most " + std::to_string(kMaxRows) + " are allowed");
  program.rows.reserve(rows.size());
  for (const Json& row : rows) program.rows.push_back(parse_row(row, static_cast<size_t>(program.slots)));
  return program;
}

}  // namespace ae
