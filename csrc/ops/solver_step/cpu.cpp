#include <type_traits>

#include "core/simd.hpp"
#include "ops/blocks.hpp"
#include "ops/solver_step/plan.hpp"

namespace ae::ops::AIGC_EDGE_ISA {
namespace {

using simd::F;
using simd::kLanes;

constexpr int64_t kNoiseTile = 1024;  // elements whose noise is made ahead; two of them fit every first-level cache

struct Streams {
  float* slots[kMaxSlots];
  const float* output[2];
  const float* noise[2];
  float* input[2];
};

// One vector of elements. Slots, Halves and Noises are the plan's numbers; with Slots = kMaxSlots, which serves the rare larger
// counts, all three are read from the plan.
template <int Slots, int Halves, int Noises, class Load, class Store>
AE_FN void step_vector(const SolverStepPlan& plan, const Streams& s, int64_t i, F (&bad)[Slots], Load load, Store store) {
  constexpr bool kFixed = Slots < kMaxSlots;
  const int halves = kFixed ? Halves : plan.halves;
  const int noises = kFixed ? Noises : plan.noises;
  const auto used = [&plan](int slot) { return kFixed || slot < plan.slots; };
  F x[Slots], y[Slots], d = {};
  AE_UNROLL
  for (int slot = 0; slot < Slots; ++slot) {
    if (used(slot)) x[slot] = load(s.slots[slot] + i);
  }
  if (halves > 0) {
    F f = load(s.output[0] + i);
    if (halves > 1) {
      const F unconditional = load(s.output[1] + i);
      f = unconditional + plan.guidance * (f - unconditional);
    }
    d = plan.c_skip * x[0] + plan.c_out * f;
    bad[0] = bad[0] + d * 0.0f;  // stays zero unless something was infinite or not a number
    d = simd::at_most(simd::at_least(d, simd::splat(plan.clip_low)), simd::splat(plan.clip_high));
  }
  AE_UNROLL
  for (int slot = 0; slot < Slots; ++slot) {
    if (!used(slot)) continue;
    F sum = plan.matrix[slot][0] * x[0];
    AE_UNROLL
    for (int from = 1; from < Slots; ++from) {
      if (used(from)) sum = plan.matrix[slot][from] * x[from] + sum;
    }
    if (halves > 0) sum = plan.matrix[slot][kFixed ? Slots : plan.slots] * d + sum;
    if (noises > 0) sum = plan.noise[0][slot] * load(s.noise[0] + i) + sum;
    if (noises > 1) sum = plan.noise[1][slot] * load(s.noise[1] + i) + sum;
    bad[slot] = bad[slot] + sum * 0.0f;
    y[slot] = sum;
  }
  AE_UNROLL
  for (int slot = 0; slot < Slots; ++slot) {
    if (used(slot)) store(s.slots[slot] + i, y[slot]);
  }
  const F input = plan.c_in * y[0];
  if (s.input[0]) store(s.input[0] + i, input);
  if (s.input[1]) store(s.input[1] + i, input);
}

// `count` elements of one sample; returns whether anything was not finite.
template <int Slots, int Halves, int Noises>
bool step(const SolverStepPlan& given_plan, const Streams& given_streams, int64_t count) {
  // Copies that no store can reach stay in registers; what kMaxSlots needs would not fit there.
  std::conditional_t<(Slots < kMaxSlots), const SolverStepPlan, const SolverStepPlan&> plan = given_plan;
  const Streams s = given_streams;
  F bad[Slots] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    step_vector<Slots, Halves, Noises>(plan, s, i, bad, simd::load, simd::store);
  }
  if (i < count) {
    const int64_t left = count - i;
    step_vector<Slots, Halves, Noises>(
        plan, s, i, bad, [left](const float* p) { return simd::load_part(p, left); },
        [left](float* p, F x) { simd::store_part(p, x, left); });
  }
  F all = bad[0];
  for (int slot = 1; slot < Slots; ++slot) all += bad[slot];
  return simd::any_nan(all);
}

using Step = bool (*)(const SolverStepPlan&, const Streams&, int64_t);

template <int Slots>
Step choose(const SolverStepPlan& plan) {
  static constexpr Step steps[3][3] = {{step<Slots, 0, 0>, step<Slots, 0, 1>, step<Slots, 0, 2>},
                                       {step<Slots, 1, 0>, step<Slots, 1, 1>, step<Slots, 1, 2>},
                                       {step<Slots, 2, 0>, step<Slots, 2, 1>, step<Slots, 2, 2>}};
  return steps[plan.halves][plan.noises];
}

Step choose_step(const SolverStepPlan& plan) {
  switch (plan.slots) {
    case 1:
      return choose<1>(plan);
    case 2:
      return choose<2>(plan);
    case 3:
      return choose<3>(plan);
    case 4:
      return choose<4>(plan);
    default:
      return step<kMaxSlots, 0, 0>;
  }
}

}  // namespace

void solver_step(const SolverStepParams& p, int64_t begin, int64_t end) {
  const SolverStepPlan plan = plan_solver_step(p);
  const Step step = choose_step(plan);
  const int64_t batch = p.samples * p.elements;
  alignas(64) float noise[2][kNoiseTile];
  for_each_block(begin, end, p.elements, [&](int64_t sample, int64_t first, int64_t count) {
    bool bad = false;
    const int64_t tile = plan.noises ? kNoiseTile : count;
    for (int64_t at = first; at < first + count; at += tile) {
      const int64_t size = first + count - at < tile ? first + count - at : tile;
      const int64_t offset = sample * p.elements + at;
      Streams s = {};
      for (int slot = 0; slot < plan.slots; ++slot) s.slots[slot] = p.slots + slot * batch + offset;
      for (int half = 0; half < plan.halves; ++half) s.output[half] = p.output + half * batch + offset;
      for (int half = 0; p.net_input && half < p.input_halves; ++half) s.input[half] = p.net_input + half * batch + offset;
      for (int i = 0; i < plan.noises; ++i) {
        simd::fill_normals(p.seeds[sample], plan.draw[i], at, size, noise[i]);
        s.noise[i] = noise[i];
      }
      bad = step(plan, s, size) || bad;
    }
    if (bad && p.nonfinite) __atomic_store_n(p.nonfinite + sample, 1, __ATOMIC_RELAXED);  // other threads may say the same
  });
}

}  // namespace ae::ops::AIGC_EDGE_ISA
