// The image sizes of a bundle, and the shapes that follow them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/json.hpp"

namespace ae {

struct Size {
  int64_t height = 0, width = 0;  // 0: not requested
};

// The manifest's "sizes", the default first. Throws Error(kBundle).
std::vector<Size> parse_sizes(const Json& json);

// The requested size, or the first; zero where there are none. Throws Error(kInvalidArgument), "no size …", that lists those
// there are.
Size choose_size(const std::vector<Size>& sizes, const Size& requested);

// One entry of a shape: a number from 1 to `most`, or what follows the size, such as "H" or "W/8". Throws Error(kBundle).
int64_t parse_side(const Json& json, const Size& size, int64_t most);

std::string size_text(int64_t height, int64_t width);

}  // namespace ae
