// Any text as the table of a schedule's constants.
#include "core/json.hpp"
#include "fuzz/target.hpp"
#include "runtime/constants.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const ae::Component schedule = {
      ae::ComponentKind::kSchedule,
      "schedule",
      {{"timestep", ae::Role::kTimestep, AE_FLOAT32, {}, 1}},
      {{"constant_0", ae::Role::kConstant, AE_FLOAT32, {}, 1}, {"constant_1", ae::Role::kConstant, AE_FLOAT32, {2, 1, 1}, 2}},
      {{"fp32", "schedule.onnx"}}};
  fuzz::read_or_refuse([&] {
    const ae::JsonDocument document(fuzz::text(data, size), "table");
    const ae::ConstantTable table = ae::parse_table(document.root(), schedule);
    AE_REQUIRE(table.width == 3);
    for (size_t i = 1; i < table.timesteps.size(); ++i) AE_REQUIRE(table.timesteps[i - 1] < table.timesteps[i]);
  });
  return 0;
}
