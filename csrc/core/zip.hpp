// The directory of an uncompressed zip file (the packed form of a bundle).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace ae {

struct ZipEntry {
  std::string name;
  size_t offset;  // of the entry's bytes in the archive
  size_t bytes;
};

bool looks_like_zip(const uint8_t* data, size_t bytes);

// Lists what a zip archive of data [bytes] holds; every offset and size is checked to lie inside it. Zip64 is read. Throws
// Error(kBundle) for a damaged archive and for entries that are compressed or encrypted.
std::vector<ZipEntry> list_zip(const uint8_t* data, size_t bytes, const std::string& path);

}  // namespace ae
