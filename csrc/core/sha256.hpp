// SHA-256 (FIPS 180-4) of the files of a bundle.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace ae {

using Sha256Read = std::function<void(const uint8_t* data, size_t bytes)>;

// The digest of data [bytes] as 64 lower-case hexadecimal digits, by the CPU's own instructions where it has such. `read` is
// called with each strip of a few megabytes that is done with.
std::string sha256_hex(const void* data, size_t bytes, const Sha256Read& read = {});
// The same without them: what other CPUs run, for tests.
std::string sha256_hex_portable(const void* data, size_t bytes);

}  // namespace ae
