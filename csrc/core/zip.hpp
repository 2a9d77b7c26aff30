// The directory of an uncompressed zip file (the packed form of a bundle).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/file.hpp"

namespace ae {

struct ZipEntry {
  std::string name;
  uint64_t offset;  // of the entry's bytes in the archive
  uint64_t bytes;
};

bool looks_like_zip(const File& file);

// Lists what a zip archive holds; every offset and size is checked to lie inside it. Zip64 is read. Throws
// Error(kBundle) for a damaged archive and for entries that are compressed or encrypted.
std::vector<ZipEntry> list_zip(const File& file, const std::string& path);

}  // namespace ae
