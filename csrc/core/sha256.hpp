// SHA-256 (FIPS 180-4) of the files of a bundle.
#pragma once

#include <cstddef>
#include <string>

namespace ae {

// The digest of data [bytes] as 64 lower-case hexadecimal digits.
std::string sha256_hex(const void* data, size_t bytes);

}  // namespace ae
