#include "runtime/sizes.hpp"

#include <algorithm>

#include "core/error.hpp"

namespace ae {
namespace {

constexpr int64_t kLongest = 1 << 16;  // side of an image
constexpr size_t kMostSizes = 1024;

std::string listed(const std::vector<Size>& sizes) {
  std::string text;
  for (const Size& size : sizes) text += (text.empty() ? "" : ", ") + size_text(size);
  return text;
}

bool holds(const std::vector<Size>& sizes, const Size& size) {
  return std::find(sizes.begin(), sizes.end(), size) != sizes.end();
}

bool whole(const Size& size, const Size& scale) { return size.height % scale.height == 0 && size.width % scale.width == 0; }

void check_tile(const Size& tile, const Size& image, const Size& scale, const char* member) {
  const std::string none = std::string("no ") + member + " of " + size_text(tile) + ": ";
  if (!whole(tile, scale))
    throw Error(kInvalidArgument, none + "its height and width must be multiples of " + size_text(scale) + " pixels, which are " +
                                      "one entry of the sample");
  if (tile.height > image.height || tile.width > image.width)
    throw Error(kInvalidArgument, none + "it must not be larger than the image, " + size_text(image));
}

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
  if (holds(sizes, requested)) return requested;
  throw Error(kInvalidArgument, "no size " + size_text(requested) + ": choose one of " + listed(sizes));
}

NetworkSizes choose_tiles(const OpenSizes& requested, const Size& image, const Size& scale, const std::vector<Size>& compiled,
                          bool denoiser, bool decoder) {
  const Size &tile = requested.tile, &window = requested.denoising_tile;
  if (tile.requested() && !decoder) throw Error(kInvalidArgument, "no decoder, which a tile is for: leave tile out");
  if (window.requested() && !denoiser)
    throw Error(kInvalidArgument, "no denoiser, which a denoising tile is for: leave denoising_tile out");
  if (!whole(image, scale) || image.height > kLongest || image.width > kLongest)
    throw Error(kInvalidArgument, "no size " + size_text(image) + ": height and width must be multiples of " + size_text(scale) +
                                      " and at most " + std::to_string(kLongest));
  if (tile.requested()) check_tile(tile, image, scale, "tile");
  if (window.requested()) {
    check_tile(window, image, scale, "denoising_tile");
    if (!holds(compiled, window))
      throw Error(kInvalidArgument, "no denoising_tile of " + size_text(window) +
                                        ": choose a size that the bundle was compiled " + "for, " + listed(compiled));
  }
  const bool beyond = !holds(compiled, image);
  if (beyond && denoiser && !window.requested())
    throw Error(kInvalidArgument, "no size " + size_text(image) + ": choose one of " + listed(compiled) +
                                      ", or give one of them as denoising_tile, to denoise in tiles");
  const NetworkSizes sizes{window.requested() ? window : image, tile.requested() ? tile : beyond ? window : image};
  for (const Size& each : {window, tile}) {
    if (requested.overlap < 0 || !each.requested()) continue;
    const bool rows = each.height < image.height, columns = each.width < image.width;  // along which tiles overlap
    const int64_t least = rows == columns ? std::min(each.height, each.width) : rows ? each.height : each.width;
    if (requested.overlap >= least || !whole({requested.overlap, requested.overlap}, scale))
      throw Error(kInvalidArgument, "no overlap of " + std::to_string(requested.overlap) + " pixels: it must be a multiple of " +
                                        size_text(scale) + ", and smaller than a tile of " + size_text(each));
  }
  return sizes;
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
  if (scale == 0 || length % scale != 0) json.fail(is + "which is no whole part of " + size_text(size));
  return length / scale;
}

}  // namespace ae
