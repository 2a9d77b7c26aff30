// SHA-256 by the CPU's own instructions and without them: the digests of FIPS 180-4's examples, and equal ones for any length.
#include "core/sha256.hpp"

#include <algorithm>
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

std::string portable(const void* data, size_t bytes) {
  ae::Sha256 hash(true);
  hash.add(data, bytes);
  return hash.hex();
}

void both(const std::string& text, const char* digest, const char* what) {
  require(ae::sha256_hex(text.data(), text.size()) == digest, what);
  require(portable(text.data(), text.size()) == digest, std::string(what) + ", portable");
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
    require(ae::sha256_hex(at, bytes) == portable(at, bytes), "length " + std::to_string(bytes));
  }
  for (int trial = 0; trial < 400; ++trial) {
    const size_t bytes = random() % data.size();
    ae::Sha256 hash;
    for (size_t at = 0, piece = 0; at < bytes; at += piece) {
      piece = std::min<size_t>(bytes - at, random() % 150);
      hash.add(data.data() + at, piece);
    }
    require(hash.hex() == ae::sha256_hex(data.data(), bytes), "in pieces, " + std::to_string(bytes));
  }
  if (failures == 0) std::printf("done\n");
  return failures;
}
