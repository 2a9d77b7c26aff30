// Any text as JSON: what is read can be walked, and every path is found.
#include "core/json.hpp"

#include "fuzz/target.hpp"

namespace {

// Accessors of another type must refuse, naming the path.
size_t walk(const ae::Json& json, int depth) {
  AE_REQUIRE(depth <= ae::kMaxJsonDepth);
  AE_REQUIRE(depth > 4 || json.path().rfind("text", 0) == 0);
  size_t values = 1;
  fuzz::read_or_refuse([&] {
    for (const ae::Json& item : json.array()) values += walk(item, depth + 1);
  });
  fuzz::read_or_refuse([&] {
    const auto members = json.object();
    for (const auto& [name, member] : members) values += walk(member, depth + 1);
    for (size_t i = 0; i < members.size() && i < 8; ++i) AE_REQUIRE(json.find(members[i].first).has_value());
    json.allow_only({"version", "rows"});
  });
  fuzz::read_or_refuse([&] { json.integer(-5, 5); });
  fuzz::read_or_refuse([&] { values += json.string().size(); });
  return values;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 1 << 16) return 0;
  fuzz::read_or_refuse([&] {
    const ae::JsonDocument document(fuzz::text(data, size), "text");
    AE_REQUIRE(walk(document.root(), 0) > 0);
  });
  return 0;
}
