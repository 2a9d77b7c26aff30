#include "runtime/sizes.hpp"

#include "core/error.hpp"

namespace ae {
namespace {

constexpr int64_t kLongest = 1 << 16;  // side of an image
constexpr size_t kMostSizes = 1024;

}  // namespace

std::string size_text(int64_t height, int64_t width) { return std::to_string(height) + "x" + std::to_string(width); }

std::vector<Size> parse_sizes(const Json& json) {
  const auto items = json.array();
  if (items.empty() || items.size() > kMostSizes) json.fail("must hold 1 to 1024 sizes");
  std::vector<Size> sizes;
  for (const Json& item : items) {
    const auto pair = item.array();
    if (pair.size() != 2) item.fail("must be [height, width]");
    sizes.push_back({pair[0].integer(1, kLongest), pair[1].integer(1, kLongest)});
  }
  return sizes;
}

Size choose_size(const std::vector<Size>& sizes, const Size& requested) {
  if (sizes.empty()) return {};
  if (requested.height == 0) return sizes.front();
  std::string known;
  for (const Size& size : sizes) {
    if (size.height == requested.height && size.width == requested.width) return size;
    known += (known.empty() ? "" : ", ") + size_text(size.height, size.width);
  }
  throw Error(kInvalidArgument, "no size " + size_text(requested.height, requested.width) + ": choose one of " + known);
}

int64_t parse_side(const Json& json, const Size& size, int64_t most) {
  if (!json.is_string()) return json.integer(1, most);
  const std::string& text = json.string();
  const std::string is = "is \"" + text + "\", ";
  const int64_t length = text[0] == 'H' ? size.height : text[0] == 'W' ? size.width : 0;
  if (length == 0) json.fail(is + "which follows no size that the bundle has");
  int64_t scale = text.size() == 1 ? 1 : 0;
  if (text.size() > 2 && text.size() < 8 && text[1] == '/')
    for (size_t i = 2; i < text.size(); ++i) {
      if (text[i] < '0' || text[i] > '9') json.fail(is + "it must be such as \"" + text[0] + "/8\"");
      scale = scale * 10 + (text[i] - '0');
    }
  if (scale == 0 || length % scale != 0) json.fail(is + "which is no whole part of " + size_text(size.height, size.width));
  return length / scale;
}

}  // namespace ae
