// What a bundle's manifest says, as plain values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/component.hpp"
#include "runtime/constants.hpp"
#include "runtime/latents.hpp"
#include "runtime/program.hpp"
#include "runtime/sizes.hpp"

namespace ae {

struct FileEntry {
  size_t bytes = 0;
  std::string sha256;
};

struct Manifest {
  std::map<std::string, FileEntry> files;
  std::vector<int64_t> sample_shape, output_shape;  // output: C, H, W; a network whose own are smaller takes tiles of them
  float output_low = -1, output_high = 1;
  int64_t class_count = 0;     // 0: unconditional
  LatentDistribution latents;  // of programs without rows
  std::optional<Component> denoiser, decoder, schedule;
  std::vector<Component> text_encoders;
  ConstantTable constants;  // its data are not read; empty without a schedule
  std::string default_format, default_program;
  std::map<std::string, Program> programs;
};

// Reads and checks the text of a manifest.json, with the shapes of the requested sizes (zero: the first, or the only one). Throws
// Error(kBundle) that names the member that is wrong, and Error(kInvalidArgument), "no size …" or "no tile …", for sizes that it
// does not have; the caller adds the bundle, and what to do.
Manifest parse_manifest(std::string_view text, const OpenSizes& requested);

// Throws Error(kBundle) when a program does not suit the components.
void check_program(const Program& program, const Manifest& manifest);

}  // namespace ae
