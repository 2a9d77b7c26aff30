// A small JSON reader for manifests and programs: strict, bounded, independent of the locale.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace ae {

// A parsed value. Numbers are double; the names of an object are unique and in the order of the text.
struct JsonValue {
  using Array = std::vector<JsonValue>;
  using Object = std::vector<std::pair<std::string, JsonValue>>;
  std::variant<std::monostate, bool, double, std::string, Array, Object> content;
};

class JsonDocument;

// A longer text, or one that nests deeper, is refused; docs/bundle.md states the limits.
constexpr size_t kMaxJsonBytes = size_t{64} << 20;
constexpr int kMaxJsonDepth = 64;

// A view of a value of a document, valid as long as that. Each accessor throws Error(kBundle) when the value is of another kind;
// every error names the path of the value, such as manifest.components.denoiser.inputs[0].shape[1]. The caller adds what to do.
class Json {
 public:
  bool is_null() const;
  bool is_string() const;
  double number() const;
  int64_t integer(int64_t low, int64_t high) const;
  const std::string& string() const;
  std::vector<Json> array() const;
  std::vector<std::pair<std::string, Json>> object() const;  // in the order of the text; names are unique

  Json operator[](std::string_view name) const;                          // a member; throws when it is missing
  std::optional<Json> find(std::string_view name) const;                 // none when it is missing
  std::optional<Json> find_value(std::string_view name) const;           // none when it is missing or null
  void allow_only(std::initializer_list<std::string_view> names) const;  // throws for any other member

  std::string path() const;
  [[noreturn]] void fail(const std::string& what) const;  // throws Error(kBundle): the path and `what`

 private:
  friend class JsonDocument;
  Json(const JsonDocument& document, const JsonValue& value) : document_(&document), value_(&value) {}
  template <class T>
  const T& as(const char* kind) const;

  const JsonDocument* document_;
  const JsonValue* value_;
};

class JsonDocument {
 public:
  // `name` begins every path. Throws Error(kBundle) that says what is wrong with the text.
  JsonDocument(std::string_view text, std::string name);
  JsonDocument(JsonValue value, std::string name) : name_(std::move(name)), value_(std::move(value)) {}
  JsonDocument(const JsonDocument&) = delete;
  JsonDocument& operator=(const JsonDocument&) = delete;

  Json root() const { return Json(*this, value_); }

 private:
  friend class Json;
  std::string name_;
  JsonValue value_;
};

}  // namespace ae
