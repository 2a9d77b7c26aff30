// Runs a fuzz target where the compiler has no libFuzzer (gcc): first every file of the corpus, then random changes of them for
// some seconds. It sees no coverage, so it finds less. As with libFuzzer the input that stops it is in the file crash-input.
//
//   TARGET -max_total_time=SECONDS [-seed=NUMBER] FOLDER…
#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

#include "fuzz/target.hpp"

#if defined(__SANITIZE_ADDRESS__)
extern "C" void __sanitizer_set_death_callback(void (*)(void));
#endif

namespace {

using Input = std::vector<uint8_t>;

const Input* current = nullptr;

void keep_current() {
  if (current == nullptr) return;
  std::ofstream("crash-input", std::ios::binary)
      .write(reinterpret_cast<const char*>(current->data()), static_cast<std::streamsize>(current->size()));
  std::fprintf(stderr, "the input is in crash-input\n");
}

void run(const Input& input) {
  current = &input;
  // A copy of its exact size on the heap, so that the sanitizer sees a byte read behind it.
  const Input copy(input);
  LLVMFuzzerTestOneInput(copy.data(), copy.size());
  current = nullptr;
}

class Mutator {
 public:
  Mutator(std::vector<Input> corpus, uint64_t seed) : corpus_(std::move(corpus)), random_(seed) {}

  Input next() {
    Input input = pick(corpus_);
    for (size_t count = 1 + below(4); count > 0; --count) change(input);
    return input;
  }

 private:
  size_t below(size_t n) { return n == 0 ? 0 : random_() % n; }
  template <class T>
  const T& pick(const std::vector<T>& values) {
    return values[below(values.size())];
  }

  void change(Input& input) {
    static const std::vector<std::string> kTokens = {"{}",
                                                     "[]",
                                                     "[[[[",
                                                     "null",
                                                     "true",
                                                     "-1",
                                                     "0",
                                                     "1e308",
                                                     "1e-400",
                                                     "2147483648",
                                                     "9007199254740993",
                                                     "\"\"",
                                                     "\"N\"",
                                                     "\"H\"",
                                                     ",",
                                                     "\\u0000",
                                                     "\\ud800",
                                                     "\"W/3\"",
                                                     "1e999",
                                                     "\xff",
                                                     "PK\x01\x02",
                                                     "PK\x05\x06",
                                                     "PK\x06\x06"};
    const size_t at = below(input.size() + 1), length = std::min(below(16) + 1, input.size() - at);
    const auto place = input.begin() + static_cast<std::ptrdiff_t>(at);
    switch (below(8)) {
      case 0:  // a bit
        if (at < input.size()) input[at] = static_cast<uint8_t>(input[at] ^ 1u << below(8));
        break;
      case 1:  // a byte at the edge
        if (at < input.size()) input[at] = pick(std::vector<uint8_t>{0, 1, 0x7f, 0x80, 0xff});
        break;
      case 2:  // a word at the edge, little-endian
        for (size_t i = 0, word = pick(std::vector<size_t>{0, 0xffff, 0xffffffff, 0x7fffffff, 46});
             i < 4 && at + i < input.size(); ++i)
          input[at + i] = static_cast<uint8_t>(word >> 8 * i);
        break;
      case 3:
        input.erase(place, place + static_cast<std::ptrdiff_t>(length));
        break;
      case 4: {  // a piece twice
        const Input piece(place, place + static_cast<std::ptrdiff_t>(length));
        input.insert(input.begin() + static_cast<std::ptrdiff_t>(below(input.size() + 1)), piece.begin(), piece.end());
        break;
      }
      case 5: {  // a token in place of another or between
        const std::string& token = pick(kTokens);
        if (below(2) == 0) input.erase(place, place + static_cast<std::ptrdiff_t>(std::min(length, token.size())));
        input.insert(input.begin() + static_cast<std::ptrdiff_t>(std::min(at, input.size())), token.begin(), token.end());
        break;
      }
      case 6: {  // the end of another input
        const Input& other = pick(corpus_);
        const size_t from = below(other.size() + 1);
        input.resize(at);
        input.insert(input.end(), other.begin() + static_cast<std::ptrdiff_t>(from), other.end());
        break;
      }
      default:  // a number
        for (size_t i = at; i < input.size(); ++i)
          if (input[i] >= '0' && input[i] <= '9') {
            input[i] = static_cast<uint8_t>('0' + below(10));
            break;
          }
    }
    if (input.size() > 1 << 16) input.resize(1 << 16);
  }

  std::vector<Input> corpus_;
  std::mt19937_64 random_;
};

}  // namespace

int main(int argc, char** argv) {
  double seconds = 0;
  uint64_t seed = std::random_device{}();
  std::vector<Input> corpus = {{}};
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word.rfind("-max_total_time=", 0) == 0) {
      seconds = static_cast<double>(std::strtoul(word.c_str() + 16, nullptr, 10));
    } else if (word.rfind("-seed=", 0) == 0) {
      seed = std::strtoull(word.c_str() + 6, nullptr, 10);
    } else if (word[0] != '-') {
      for (const auto& entry : std::filesystem::directory_iterator(word)) {
        std::ifstream file(entry.path(), std::ios::binary);
        corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
      }
    }
  }
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_set_death_callback(keep_current);
#endif
  std::signal(SIGABRT, [](int) { keep_current(); });
  std::fprintf(stderr, "seed %llu, %zu inputs\n", static_cast<unsigned long long>(seed), corpus.size());
  size_t runs = 0;
  for (const Input& input : corpus) {
    run(input);
    ++runs;
  }
  Mutator mutator(corpus, seed);
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (std::chrono::steady_clock::now() < end) {
    run(mutator.next());
    ++runs;
  }
  std::fprintf(stderr, "Done %zu runs\n", runs);
  return 0;
}
