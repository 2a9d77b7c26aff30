// SHA-256 (FIPS 180-4) of the files of a bundle.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace ae {

class Sha256 {
 public:
  explicit Sha256(bool portable = false);  // portable: without the CPU's own instructions, as on CPUs that have none
  void add(const void* data, size_t bytes);
  std::string hex();  // the digest of all that was added, 64 lower-case hexadecimal digits; the last call

 private:
  void (*compress_)(uint32_t state[8], const uint8_t* block, size_t blocks);
  uint32_t state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  uint8_t block_[64];  // the first bytes_ % 64 wait for the rest of their block
  uint64_t bytes_ = 0;
};

std::string sha256_hex(const void* data, size_t bytes);

}  // namespace ae
