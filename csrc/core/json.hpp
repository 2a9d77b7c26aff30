// A small JSON reader for manifests and programs: strict, bounded, independent of the locale.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace ae {

class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::vector<std::pair<std::string, Json>>;  // in the order of the text; keys are unique

  Json() = default;
  template <class T>
  explicit Json(T value) : value_(std::move(value)) {}

  // `what` names the text in messages. Throws Error(kBundle) that says what is wrong; the caller adds what to do.
  static Json parse(std::string_view text, const std::string& what);

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  bool is_string() const { return std::holds_alternative<std::string>(value_); }

  // Each accessor throws Error(kBundle) naming `path` when the value is of another kind.
  double number(const std::string& path) const;
  int64_t integer(const std::string& path, int64_t low, int64_t high) const;
  const std::string& string(const std::string& path) const;
  const Array& array(const std::string& path) const;
  const Object& object(const std::string& path) const;

  // A member of an object: null pointer when it is missing, `at` throws instead.
  const Json* find(std::string_view key, const std::string& path) const;
  const Json& at(std::string_view key, const std::string& path) const;

 private:
  std::variant<std::monostate, bool, double, std::string, Array, Object> value_;
};

}  // namespace ae
