// The one exception of the native code: a status that the C API returns and a sentence that a user can act on.
#pragma once

#include <charconv>
#include <stdexcept>
#include <string>

namespace ae {

// Mirrors ae_status of the C API, number by number.
enum Status : int {
  kOk = 0,
  kInvalidArgument = 1,
  kBundle = 2,
  kUnsupported = 3,
  kEngine = 4,
  kCancelled = 5,
  kOutOfMemory = 6,
  kInternal = 7,
};

// A number for a message, in the shortest form that reads back the same; std::to_string would follow the locale ("0,5").
template <class Number>
std::string number_text(Number value) {
  char text[32];
  return {text, std::to_chars(text, text + sizeof text, value).ptr};
}

struct Error : std::runtime_error {
  Error(Status status, const std::string& message) : std::runtime_error(message), status(status) {}
  Status status;
};

}  // namespace ae
