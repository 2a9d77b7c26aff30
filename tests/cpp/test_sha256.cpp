// SHA-256 by the CPU's own instructions and without them: the digests of FIPS 180-4's examples, and equal ones for any length.
#include "core/sha256.hpp"

#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

namespace {

int failures = 0;

void require(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "failed: %s\n", what.c_str());
  ++failures;
}

void both(const std::string& text, const char* digest, const char* what) {
  require(ae::sha256_hex(text.data(), text.size()) == digest, what);
  require(ae::sha256_hex_portable(text.data(), text.size()) == digest, std::string(what) + ", portable");
}

}  // namespace

int main() {
  both("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "nothing");
  both("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "abc");
  both("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1", "two blocks");
  both(std::string(1000000, 'a'), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0", "a million letters");
  std::mt19937 random{std::random_device{}()};
  std::vector<uint8_t> data(4096);
  for (uint8_t& byte : data) byte = static_cast<uint8_t>(random());
  for (size_t bytes = 0; bytes < 400; ++bytes) {
    const uint8_t* at = data.data() + random() % 3000;  // at any alignment
    require(ae::sha256_hex(at, bytes) == ae::sha256_hex_portable(at, bytes), "length " + std::to_string(bytes));
  }
  const std::vector<uint8_t> large(40 << 20, 7);
  const uint8_t* next = large.data();
  const std::string hex = ae::sha256_hex(large.data(), large.size() - 5, [&](const uint8_t* at, size_t bytes) {
    require(at == next, "strips follow each other");
    next = at + bytes;
  });
  require(hex == ae::sha256_hex_portable(large.data(), large.size() - 5), "in strips");
  require(large.data() + large.size() - next == 64, "all strips but for the last, which is no whole block");
  if (failures == 0) std::printf("done\n");
  return failures;
}
