// Philox4x32-10 against the known answers of Random123 (kat_vectors), and the vector code against the single lane.
#include <cmath>
#include <cstdio>
#include <vector>

#include "core/simd.hpp"

namespace {

int failures = 0;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "failed: %s\n", what);
  ++failures;
}

struct KnownAnswer {
  uint32_t counter[4], key[2], words[4];
};

constexpr KnownAnswer kKnown[] = {
    {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
     {0xffffffff, 0xffffffff},
     {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
     {0xa4093822, 0x299f31d0},
     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
};

void known_answers() {
  using namespace ae;
  for (const KnownAnswer& known : kKnown) {
    const uint32_t* const c = known.counter;
    const auto single =
        philox::rounds<philox::Single>(philox::Words<uint64_t>{c[0], c[1], c[2], c[3]}, known.key[0], known.key[1]);
    const uint64_t words[4] = {single.x0, single.x1, single.x2, single.x3};
    for (int i = 0; i < 4; ++i) require(static_cast<uint32_t>(words[i]) == known.words[i], "a known answer of Philox4x32-10");
    const philox::Words<simd::W> start = {uint64_t{c[0]} + simd::W{}, uint64_t{c[1]} + simd::W{}, uint64_t{c[2]} + simd::W{},
                                          uint64_t{c[3]} + simd::W{}};
    const auto many = philox::rounds<simd::Lanes>(start, known.key[0], known.key[1]);
    const simd::W vectors[4] = {many.x0, many.x1, many.x2, many.x3};
    for (int i = 0; i < 4; ++i) {
      for (int lane = 0; lane < simd::kBytes / 8; ++lane) {
        require(static_cast<uint32_t>(vectors[i][lane]) == known.words[i], "a known answer in a vector's lane");
      }
    }
  }
}

// The words that lie where the code has its seams: both ends of the range, and around 1/sqrt(2).
void extreme_words() {
  for (const uint32_t x :
       {0u, 1u, 2u, 0x7fffffffu, 0x80000000u, 0xB504F332u, 0xB504F333u, 0xB504F334u, 0xfffffffdu, 0xfffffffeu, 0xffffffffu}) {
    const double u = (x + 0.5) * 0x1p-32;
    const double exact = std::sqrt(-2.0 * (x > 0xB504F333u ? std::log1p(-((0xffffffffu - x) + 0.5) * 0x1p-32) : std::log(u)));
    const float found = ae::philox::radius<ae::philox::Single>(x);
    require(std::fabs(found - exact) <= 2e-7 * exact, "the radius of an extreme word, to two units in the last place");
  }
  for (uint32_t y = 0; y < 0xFFFF0000u; y += 0x10001u) {
    float cosine, sine;
    ae::philox::circle<ae::philox::Single>(y, cosine, sine);
    const double angle = 2 * 3.14159265358979323846 * (y >> 8) * 0x1p-24;
    require(std::fabs(cosine - std::cos(angle)) < 1.5e-7 && std::fabs(sine - std::sin(angle)) < 1.5e-7, "a point of the circle");
  }
}

void vector_equals_single() {
  const uint64_t seed = 0xFEDCBA9876543210u;
  for (const int64_t first : {int64_t{0}, int64_t{4096}, (int64_t{1} << 34) - 64}) {
    std::vector<float> many(64 - 5);
    ae::simd::fill_normals(seed, 7, first, static_cast<int64_t>(many.size()), many.data());
    for (size_t i = 0; i < many.size(); ++i) {
      float z[4];
      ae::philox::normals4(seed, 7, static_cast<uint32_t>((first + static_cast<int64_t>(i)) / 4), z);
      require(std::fabs(many[i] - z[i % 4]) <= 1e-6f, "a vector's normal equals the single lane's");
    }
  }
}

}  // namespace

int main() {
  known_answers();
  extreme_words();
  vector_equals_single();
  std::printf("%s\n", failures ? "failed" : "done");
  return failures ? 1 : 0;
}
