#include "runtime/members.hpp"

#include <initializer_list>
#include <set>
#include <string>

namespace ae {
namespace {

using Check = void (*)(const Json&);

struct Optional {  // a member that may be missing or null
  const char* name;
  Check check;
};

void check(const Json& json, std::initializer_list<Optional> members) {
  for (const Optional& member : members)
    if (const auto value = json.find_value(member.name)) member.check(*value);
}

void number(const Json& json) { json.number(); }
void string(const Json& json) { json.string(); }
void object(const Json& json) { json.object(); }

template <Check item>
void list(const Json& json) {
  for (const Json& value : json.array()) item(value);
}

template <Check member>
void map(const Json& json) {
  for (const auto& [name, value] : json.object()) member(value);
}

void string_or_object(const Json& json) { json.is_string() ? string(json) : object(json); }
void compute_capability(const Json& json) { json.integer(0, 10000); }
void batch(const Json& json) { json.integer(1, (int64_t{1} << 31) - 1); }

void judge(const Json& json) {
  json["classifier"].string();
  json["features"].string();
  check(json, {{"accuracy", number}});
}

void range(const Json& json) {
  const auto bounds = json.array();
  if (bounds.size() != 2) json.fail("must be [low, high]");
  for (const Json& bound : bounds) bound.number();
}

void calibration(const Json& json) { map<range>(json["ranges"]); }

void plan(const Json& json) {
  for (const char* name : {"engine", "format", "target", "file"}) json[name].string();
  check(json, {{"built_with", string},
               {"device", string},
               {"sm", compute_capability},
               {"batches", list<batch>},
               {"options", object},
               {"precision", string_or_object},
               {"expected", list<object>},
               {"surprises", list<string>}});
}

void names_of_inputs(const Json& json, const char* member, const std::set<std::string>& inputs) {
  const auto names = json.find_value(member);
  if (!names) return;
  for (const Json& item : names->array())
    if (inputs.count(item.string()) == 0) item.fail("is \"" + item.string() + "\", which is not among the inputs");
}

void component(const Json& json) {
  check(json, {{"engines", list<plan>}, {"schedule_constants", object}});
  std::set<std::string> inputs;
  for (const Json& input : json["inputs"].array()) inputs.insert(input["name"].string());
  names_of_inputs(json, "onnx_inputs", inputs);
  if (const auto weights = json.find_value("weights")) {
    (*weights)["file"].string();
    (*weights)["model"].object();
    names_of_inputs(*weights, "inputs", inputs);
  }
}

}  // namespace

void check_unused_members(const Json& root) {
  check(root, {{"components", map<component>},
               {"name", string},
               {"family", string},
               {"created", string},
               {"schedule", object},
               {"provenance", object},
               {"targets", list<string>},
               {"notes", list<string>},
               {"tools", map<string>},
               {"examples", map<map<string>>},
               {"quality", map<object>},
               {"judge", judge},
               {"calibration", calibration},
               {"classes", [](const Json& classes) { check(classes, {{"names", list<string>}}); }},
               {"text", [](const Json& text) { check(text, {{"prompts", list<string>}}); }}});
}

}  // namespace ae
