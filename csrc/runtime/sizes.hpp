// The image sizes of a bundle, and the shapes that follow them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/json.hpp"

namespace ae {

struct Size {
  int64_t height = 0, width = 0;  // 0: not asked for
};

// The manifest's "sizes", the default first; empty where it is null: the bundle has one size. Throws Error(kBundle).
std::vector<Size> parse_sizes(const Json* json, const std::string& path);

// The size that was asked for, or the first. Throws Error(kInvalidArgument) that lists those there are.
Size choose_size(const std::vector<Size>& sizes, const Size& asked, const std::string& bundle);

// One entry of a shape: a number from 1 to `most`, or what follows the size, such as "H" or "W/8". Throws Error(kBundle).
int64_t parse_side(const Json& json, const Size& size, int64_t most, const std::string& path);

std::string size_text(int64_t height, int64_t width);

}  // namespace ae
