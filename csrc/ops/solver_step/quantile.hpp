// The quantile of non-negative numbers without sorting and without memory for them: their bits are ordered as they are, so three
// passes of counting find the one of a given rank, and a fourth its successor. Linear between the two, as NumPy and torch have
// it.
#pragma once

#include "core/half.hpp"

namespace ae::ops {

struct Quantile {
  static constexpr int kBins = 2048, kPasses = 4;

  int64_t rank;     // of the number looked for, among those that share the prefix
  double fraction;  // of the way from it to its successor
  uint32_t prefix;  // its leading bits that are known, after pass 2 all of them
  bool twin;        // whether its successor is equal
  int pass;

  AE_FN Quantile of(int64_t count, double quantile) {
    const double place = quantile * static_cast<double>(count - 1);
    const int64_t rank = static_cast<int64_t>(place);
    return {rank, place - static_cast<double>(rank), 0, false, 0};
  }
  AE_FN int shift(int pass) { return pass == 0 ? 21 : pass == 1 ? 10 : 0; }

  // In passes 0 … 2 the caller counts by `bin` all numbers that `counts` is true of, and gives the counts to `narrow`; in pass 3
  // it finds the least number above `prefix`, and gives it to `value`.
  AE_FN bool counts(const Quantile& q, uint32_t bits) { return q.pass == 0 || bits >> shift(q.pass - 1) == q.prefix; }
  AE_FN uint32_t bin(const Quantile& q, uint32_t bits) { return bits >> shift(q.pass) & (q.pass == 2 ? 0x3FFu : 0x7FFu); }
  AE_FN void narrow(Quantile& q, const uint32_t* bins) {
    uint32_t found = 0;
    while (found + 1 < kBins && q.rank >= bins[found]) q.rank -= bins[found++];
    q.prefix = q.prefix << (q.pass == 2 ? 10 : 11) | found;
    q.twin = q.rank + 1 < bins[found];
    ++q.pass;
  }
  AE_FN double value(const Quantile& q, uint32_t successor) {
    const double low = float_of(q.prefix);
    if (q.twin || q.fraction == 0.0 || successor == ~0u) return low;
    return low + q.fraction * (double{float_of(successor)} - low);
  }
};

}  // namespace ae::ops
