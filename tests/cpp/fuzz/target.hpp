// What every fuzz target includes. A target feeds bytes to one reader, which may refuse them with an Error and nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "core/error.hpp"

// libFuzzer calls it, and driver.cpp where the compiler has no libFuzzer.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

// Stops the fuzzer: a property does not hold.
#define AE_REQUIRE(condition)                                                      \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                \
    }                                                                              \
  } while (false)

namespace fuzz {

inline std::string_view text(const uint8_t* data, size_t size) { return {reinterpret_cast<const char*>(data), size}; }

// Calls read(); a refusal must be an Error of a bundle, in one line of some length.
template <class Read>
void read_or_refuse(Read&& read) {
  try {
    read();
  } catch (const ae::Error& error) {
    AE_REQUIRE(error.status == ae::kBundle || error.status == ae::kInvalidArgument);
    const std::string message = error.what();
    AE_REQUIRE(!message.empty() && message.find('\n') == std::string::npos);
  }
}

}  // namespace fuzz
