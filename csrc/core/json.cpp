#include "core/json.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/error.hpp"

namespace ae {
namespace {

constexpr size_t kFew = 16;  // names that are compared with each other without being sorted

// A name of the document as a piece of one sentence.
std::string shown(const std::string& text) {
  size_t end = std::min<size_t>(text.size(), 60);
  while (end > 0 && end < text.size() && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;  // not inside UTF-8
  std::string out = text.substr(0, end);
  std::replace_if(out.begin(), out.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, '?');
  return end < text.size() ? out + "..." : out;
}

using Value = JsonValue;

class Parser {
 public:
  Parser(std::string_view text, const std::string& what) : text_(text), what_(what) {}

  Value document() {
    if (text_.size() > kMaxJsonBytes) fail("it has more than " + std::to_string(kMaxJsonBytes >> 20) + " MiB");
    require_utf8();
    Value value = parse_value(0);
    skip_space();
    if (at_ != text_.size()) fail("something follows the end of the value");
    return value;
  }

 private:
  [[noreturn]] void fail(const std::string& why) const {
    throw Error(kBundle, what_ + " is not valid JSON at byte " + std::to_string(at_) + " (" + why + ")");
  }

  // Names end up in messages, and the text as a whole in Python: what is not UTF-8 would fail there.
  void require_utf8() {
    for (at_ = 0; at_ < text_.size();) {
      const auto lead = static_cast<unsigned char>(text_[at_]);
      const int more = lead < 0x80                   ? 0
                       : lead >= 0xC2 && lead < 0xE0 ? 1
                       : lead >= 0xE0 && lead < 0xF0 ? 2
                       : lead >= 0xF0 && lead < 0xF5 ? 3
                                                     : -1;
      if (more < 0 || at_ + static_cast<size_t>(more) >= text_.size()) fail("not UTF-8");
      uint32_t code = lead & (0x7Fu >> (more == 0 ? 0 : more + 1));
      for (int i = 1; i <= more; ++i) {
        const auto next = static_cast<unsigned char>(text_[at_ + static_cast<size_t>(i)]);
        if ((next & 0xC0) != 0x80) fail("not UTF-8");
        code = code << 6 | (next & 0x3Fu);
      }
      const bool overlong = (more == 2 && code < 0x800) || (more == 3 && (code < 0x10000 || code > 0x10FFFF));
      if (overlong || (code >= 0xD800 && code < 0xE000)) fail("not UTF-8");
      at_ += static_cast<size_t>(more) + 1;
    }
    at_ = 0;
  }

  void skip_space() {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c != ' ' && c != '\t' && c != '\n' && c != '\r') return;
      ++at_;
    }
  }

  char peek() {
    skip_space();
    if (at_ == text_.size()) fail("the text ends too early");
    return text_[at_];
  }

  void expect(char c) {
    if (peek() != c) fail(std::string("expected '") + c + "'");
    ++at_;
  }

  bool accept(char c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }

  void word(std::string_view w) {
    if (text_.substr(at_, w.size()) != w) fail("unknown word");
    at_ += w.size();
  }

  Value parse_value(int depth) {
    if (depth > kMaxJsonDepth) fail("nested too deep");
    switch (peek()) {
      case '{':
        return parse_object(depth);
      case '[':
        return parse_array(depth);
      case '"':
        return Value{parse_string()};
      case 't':
        word("true");
        return Value{true};
      case 'f':
        word("false");
        return Value{false};
      case 'n':
        word("null");
        return Value{};
      default:
        return Value{parse_number()};
    }
  }

  Value parse_object(int depth) {
    Value::Object members;
    expect('{');
    if (accept('}')) return Value{std::move(members)};
    do {
      if (peek() != '"') fail("expected a name");
      std::string key = parse_string();
      expect(':');
      members.emplace_back(std::move(key), parse_value(depth + 1));
    } while (accept(','));
    expect('}');
    require_unique(members);
    return Value{std::move(members)};
  }

  // Not by a hash table, whose collisions a file could be written for.
  void require_unique(const Value::Object& members) const {
    std::vector<std::string_view> names;
    names.reserve(members.size());
    for (const auto& member : members) {
      if (members.size() <= kFew && std::find(names.begin(), names.end(), member.first) != names.end()) fail_twice(member.first);
      names.push_back(member.first);
    }
    if (members.size() <= kFew) return;
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    if (twice != names.end()) fail_twice(*twice);
  }

  [[noreturn]] void fail_twice(std::string_view name) const {
    fail("the name \"" + shown(std::string(name)) + "\" stands twice");
  }

  Value parse_array(int depth) {
    Value::Array items;
    expect('[');
    if (accept(']')) return Value{std::move(items)};
    do {
      items.push_back(parse_value(depth + 1));
    } while (accept(','));
    expect(']');
    return Value{std::move(items)};
  }

  size_t digits_from(size_t at) const {  // the end of the digits that begin there; at least one
    const size_t begin = at;
    while (at < text_.size() && text_[at] >= '0' && text_[at] <= '9') ++at;
    if (at == begin) fail(at == at_ || (at == at_ + 1 && text_[at_] == '-') ? "expected a value" : "bad number");
    return at;
  }

  double parse_number() {
    // from_chars takes what JSON forbids (01, 1., inf), so the extent of the number is found first.
    const size_t first = at_ + (text_[at_] == '-' ? 1 : 0);
    size_t end = digits_from(first);
    if (text_[first] == '0' && end > first + 1) fail("a number begins with 0");
    if (end < text_.size() && text_[end] == '.') end = digits_from(end + 1);
    if (end < text_.size() && (text_[end] == 'e' || text_[end] == 'E')) {
      const bool sign = end + 1 < text_.size() && (text_[end + 1] == '+' || text_[end + 1] == '-');
      end = digits_from(end + (sign ? 2 : 1));
    }
    double number = 0;
    const auto result = std::from_chars(text_.data() + at_, text_.data() + end, number);
    if (result.ec != std::errc() || result.ptr != text_.data() + end || !std::isfinite(number)) fail("a number is out of range");
    at_ = end;
    return number;
  }

  unsigned hex4() {
    if (at_ + 4 > text_.size()) fail("the text ends inside an escape");
    unsigned code = 0;
    const char* begin = text_.data() + at_;
    const auto result = std::from_chars(begin, begin + 4, code, 16);
    if (result.ptr != begin + 4) fail("bad \\u escape");
    at_ += 4;
    return code;
  }

  void append_utf8(std::string& out, unsigned code) {
    if (code < 0x80) {
      out += static_cast<char>(code);
      return;
    }
    const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;  // bytes behind the first, of six bits each
    out += static_cast<char>((0xF00 >> (more + 1) & 0xFF) | code >> 6 * more);
    for (int i = more - 1; i >= 0; --i) out += static_cast<char>(0x80 | (code >> 6 * i & 63));
  }

  void escape(std::string& out) {
    if (at_ == text_.size()) fail("the text ends inside a string");
    const char c = text_[at_++];
    constexpr std::string_view kEscapes = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
    if (const size_t escape = kEscapes.find(c); escape != std::string_view::npos) {
      out += kMeanings[escape];
      return;
    }
    if (c != 'u') fail("bad escape");
    unsigned code = hex4();
    if (code >= 0xD800 && code < 0xDC00) {
      if (text_.substr(at_, 2) != "\\u") fail("half a surrogate pair");
      at_ += 2;
      const unsigned low = hex4();
      if (low < 0xDC00 || low > 0xDFFF) fail("half a surrogate pair");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else if (code >= 0xDC00 && code < 0xE000) {
      fail("half a surrogate pair");
    }
    append_utf8(out, code);
  }

  std::string parse_string() {
    std::string out;
    ++at_;  // the opening quote
    while (true) {
      if (at_ == text_.size()) fail("the text ends inside a string");
      const char c = text_[at_++];
      if (c == '"') return out;
      if (static_cast<unsigned char>(c) < 0x20) fail("a control character inside a string");
      if (c == '\\') {
        escape(out);
      } else {
        out += c;
      }
    }
  }

  std::string_view text_;
  const std::string& what_;
  size_t at_ = 0;
};

}  // namespace

JsonDocument::JsonDocument(std::string_view text, std::string name)
    : name_(std::move(name)), value_(Parser(text, name_).document()) {}

// Found by its address, so that reading costs nothing for paths that nobody sees.
std::string Json::path() const {
  std::string path = document_->name_;
  const auto append = [&](const auto& self, const Value& value) -> bool {
    if (&value == value_) return true;
    const size_t length = path.size();
    if (const auto* items = std::get_if<Value::Array>(&value.content)) {
      for (size_t i = 0; i < items->size(); ++i) {
        path += "[" + std::to_string(i) + "]";
        if (self(self, (*items)[i])) return true;
        path.resize(length);
      }
    } else if (const auto* members = std::get_if<Value::Object>(&value.content)) {
      for (const auto& [name, member] : *members) {
        path += "." + shown(name);
        if (self(self, member)) return true;
        path.resize(length);
      }
    }
    return false;
  };
  append(append, document_->value_);
  return path;
}

void Json::fail(const std::string& what) const { throw Error(kBundle, path() + " " + what); }

template <class T>
const T& Json::as(const char* kind) const {
  if (const T* content = std::get_if<T>(&value_->content)) return *content;
  fail(std::string("must be ") + kind);
}

bool Json::is_null() const { return std::holds_alternative<std::monostate>(value_->content); }
bool Json::is_string() const { return std::holds_alternative<std::string>(value_->content); }
double Json::number() const { return as<double>("a number"); }
const std::string& Json::string() const { return as<std::string>("a string"); }

int64_t Json::integer(int64_t low, int64_t high) const {
  const double v = number();
  if (v != std::floor(v) || v < static_cast<double>(low) || v > static_cast<double>(high))
    fail("must be a whole number from " + std::to_string(low) + " to " + std::to_string(high));
  return static_cast<int64_t>(v);
}

std::vector<Json> Json::array() const {
  std::vector<Json> items;
  for (const Value& item : as<Value::Array>("a list")) items.push_back(Json(*document_, item));
  return items;
}

std::vector<std::pair<std::string, Json>> Json::object() const {
  std::vector<std::pair<std::string, Json>> members;
  for (const auto& [name, member] : as<Value::Object>("an object")) members.emplace_back(name, Json(*document_, member));
  return members;
}

std::optional<Json> Json::find(std::string_view name) const {
  for (const auto& member : as<Value::Object>("an object"))
    if (member.first == name) return Json(*document_, member.second);
  return std::nullopt;
}

std::optional<Json> Json::find_value(std::string_view name) const {
  const auto member = find(name);
  return member && !member->is_null() ? member : std::nullopt;
}

Json Json::operator[](std::string_view name) const {
  if (const auto member = find(name)) return *member;
  throw Error(kBundle, path() + "." + std::string(name) + " must be present");
}

void Json::allow_only(std::initializer_list<std::string_view> names) const {
  for (const auto& member : as<Value::Object>("an object"))
    if (std::find(names.begin(), names.end(), member.first) == names.end())
      fail("has an unknown member \"" + shown(member.first) + "\"");
}

}  // namespace ae
