// Any text as a sampling program.
#include "runtime/program.hpp"

#include <cmath>

#include "fuzz/target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::read_or_refuse([&] {
    const ae::JsonDocument document(fuzz::text(data, size), "program");
    const ae::Program program = ae::parse_program(document.root());
    AE_REQUIRE(program.slots >= 1 && program.slots <= 8 && !program.name.empty());
    const auto slots = static_cast<size_t>(program.slots);
    for (const ae::Row& row : program.rows) {
      AE_REQUIRE(row.after.size() == slots * (slots + 1));
      AE_REQUIRE(row.before.empty() || row.before.size() == slots * slots);
      for (const auto* values : {&row.before_noise, &row.after_noise, &row.after_output})
        AE_REQUIRE(values->empty() || values->size() == slots);
      for (const double value : row.after) AE_REQUIRE(std::isfinite(static_cast<float>(value)));
    }
  });
  return 0;
}
