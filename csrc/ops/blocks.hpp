// Samples are divided into blocks of a fixed size, so that the result for an element never depends on the batch or the threads.
#pragma once

#include <cstdint>

namespace ae::ops {

constexpr int64_t kBlock = 4096;  // elements

static inline int64_t blocks_per_sample(int64_t elements) { return (elements + kBlock - 1) / kBlock; }

// Calls f(sample, first element, number of elements) for blocks begin … end - 1, counted through all samples.
template <class F>
static inline void for_each_block(int64_t begin, int64_t end, int64_t elements, F&& f) {
  if (begin >= end) return;
  const int64_t per_sample = blocks_per_sample(elements);
  int64_t sample = begin / per_sample, block = begin % per_sample;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t first = block * kBlock;
    f(sample, first, elements - first < kBlock ? elements - first : kBlock);
    if (++block == per_sample) {
      block = 0;
      ++sample;
    }
  }
}

// What an op's check() returns: how much there is to do. Units, usually blocks, are what cpu.cpp takes a range of.
struct Work {
  int64_t units;
  int64_t bytes;  // read and written
};

}  // namespace ae::ops
