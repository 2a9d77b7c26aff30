// SHA-256 (FIPS 180-4) of the files of a bundle.
#pragma once

#include <cstddef>
#include <string>

namespace ae {

// The digest of data [bytes] as 64 lower-case hexadecimal digits, by the CPU's own instructions where it has such.
std::string sha256_hex(const void* data, size_t bytes);
// The same without them: what other CPUs run, for tests.
std::string sha256_hex_portable(const void* data, size_t bytes);

}  // namespace ae
