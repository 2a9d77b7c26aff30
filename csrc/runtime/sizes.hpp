// The image sizes of a bundle, and the shapes that follow them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/json.hpp"

namespace ae {

struct Size {
  int64_t height = 0, width = 0;  // 0: not requested

  bool requested() const { return height != 0; }
  bool operator==(const Size& other) const { return height == other.height && width == other.width; }
};

// The sizes that a bundle is opened at; those that are zero were not requested.
struct OpenSizes {
  Size image;
  Size tile;             // of the decoder
  Size denoising_tile;   // of the denoiser
  int64_t overlap = -1;  // of tiles, in pixels; -1: the default
};

// The manifest's "sizes", the default first. Throws Error(kBundle).
std::vector<Size> parse_sizes(const Json& json);

// The requested size, or the first; zero where there are none. Throws Error(kInvalidArgument), "no size …", that lists those
// there are.
Size choose_size(const std::vector<Size>& sizes, const Size& requested);

// The part of the image that each network takes.
struct NetworkSizes {
  Size denoiser, decoder;
};

// What each network takes of `image`, of which one entry of the sample is `scale` pixels, in a bundle that was compiled for the
// sizes `compiled`. Throws Error(kInvalidArgument), "no …", for tiles and overlaps that are not possible.
NetworkSizes choose_tiles(const OpenSizes& requested, const Size& image, const Size& scale, const std::vector<Size>& compiled,
                          bool denoiser, bool decoder);

// One entry of a shape: a number from 1 to `most`, or what follows the size, such as "H" or "W/8". Throws Error(kBundle).
int64_t parse_side(const Json& json, const Size& size, int64_t most);

std::string size_text(int64_t height, int64_t width);
inline std::string size_text(const Size& size) { return size_text(size.height, size.width); }

}  // namespace ae
