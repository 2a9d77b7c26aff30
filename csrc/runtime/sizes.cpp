#include "runtime/sizes.hpp"

#include "core/error.hpp"

namespace ae {
namespace {

constexpr int64_t kLongest = 1 << 16;  // side of an image
constexpr size_t kMostSizes = 1024;

}  // namespace

std::string size_text(int64_t height, int64_t width) { return std::to_string(height) + "x" + std::to_string(width); }

std::vector<Size> parse_sizes(const Json* json, const std::string& path) {
  std::vector<Size> sizes;
  if (json == nullptr || json->is_null()) return sizes;
  const auto& items = json->array(path);
  if (items.empty() || items.size() > kMostSizes) throw Error(kBundle, path + " must hold 1 to 1024 sizes");
  for (size_t i = 0; i < items.size(); ++i) {
    const std::string where = path + "[" + std::to_string(i) + "]";
    const auto& pair = items[i].array(where);
    if (pair.size() != 2) throw Error(kBundle, where + " must be [height, width]");
    sizes.push_back({pair[0].integer(where + "[0]", 1, kLongest), pair[1].integer(where + "[1]", 1, kLongest)});
  }
  return sizes;
}

Size choose_size(const std::vector<Size>& sizes, const Size& asked, const std::string& bundle) {
  if (sizes.empty()) return {};
  if (asked.height == 0) return sizes.front();
  std::string known;
  for (const Size& size : sizes) {
    if (size.height == asked.height && size.width == asked.width) return size;
    known += (known.empty() ? "" : ", ") + size_text(size.height, size.width);
  }
  throw Error(kInvalidArgument, bundle + " has no size " + size_text(asked.height, asked.width) + ": choose one of " + known);
}

int64_t parse_side(const Json& json, const Size& size, int64_t most, const std::string& path) {
  if (!json.is_string()) return json.integer(path, 1, most);
  const std::string& text = json.string(path);
  const int64_t length = text[0] == 'H' ? size.height : text[0] == 'W' ? size.width : 0;
  if (length == 0) throw Error(kBundle, path + " is \"" + text + "\", which follows no size that the bundle has");
  int64_t scale = text.size() == 1 ? 1 : 0;
  if (text.size() > 2 && text.size() < 8 && text[1] == '/')
    for (size_t i = 2; i < text.size(); ++i) {
      if (text[i] < '0' || text[i] > '9')
        throw Error(kBundle, path + " is \"" + text + "\", it must be such as \"" + text[0] + "/8\"");
      scale = scale * 10 + (text[i] - '0');
    }
  if (scale == 0 || length % scale != 0)
    throw Error(kBundle, path + " is \"" + text + "\", which is no whole part of " + size_text(size.height, size.width));
  return length / scale;
}

}  // namespace ae
