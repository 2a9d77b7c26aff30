// A target with a fault, by which the tests see that faults are found: it writes behind a buffer for texts that hold "[[[".
#include <vector>

#include "fuzz/target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const bool hit = fuzz::text(data, size).find("[[[") != std::string_view::npos;
  std::vector<char> buffer(size + 1);
  volatile char* end = buffer.data() + buffer.size();
  if (hit) *end = 1;
  return 0;
}
