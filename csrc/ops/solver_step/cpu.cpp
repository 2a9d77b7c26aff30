#include <type_traits>

#include "core/simd.hpp"
#include "ops/blocks.hpp"
#include "ops/solver_step/network.hpp"
#include "ops/solver_step/plan.hpp"
#include "ops/solver_step/quantile.hpp"

namespace ae::ops::AIGC_EDGE_ISA {
namespace {

using simd::F;
using simd::kLanes;

constexpr int64_t kTile = 1024;  // elements whose noise is made, or whose dtype changed, ahead; several fit a first-level cache

// More than most caches hold. The network's input is only written: past the caches, its lines need not be read first.
constexpr int64_t kStreamBytes = 48 << 20;

struct Streams {
  float* slots[kMaxSlots];
  const float* output[2];
  const float* noise[2];
  float* input[2];
  bool past_caches;  // whether the input is written there
  const float* mask;
  const float* known;
  const float* known_eps;
};

// One vector of elements. Slots, Halves and Noises are the plan's numbers; with Slots = kMaxSlots, which serves the rare larger
// counts, all three are read from the plan.
template <int Slots, int Halves, int Noises, bool kWhole, class Load, class Store>
AE_FN void step_vector(const SolverStepPlan& plan, const Streams& s, int64_t i, F (&bad)[Slots], Load load, Store store) {
  constexpr bool kFixed = Slots < kMaxSlots;
  const int halves = kFixed ? Halves : plan.halves;
  const int noises = kFixed ? Noises : plan.noises;
  const auto used = [&plan](int slot) { return kFixed || slot < plan.slots; };
  F x[Slots], y[Slots], d = {}, f = {};
  AE_UNROLL
  for (int slot = 0; slot < Slots; ++slot) {
    if (used(slot)) x[slot] = load(s.slots[slot] + i);
  }
  if (halves > 0) {
    f = load(s.output[0] + i);
    if (halves > 1) {
      const F unconditional = load(s.output[1] + i);
      f = unconditional + plan.guidance * (f - unconditional);
    }
    const F raw = plan.c_skip * x[0] + plan.c_out * f;
    bad[0] = bad[0] + raw * 0.0f;  // stays zero unless something was infinite or not a number
    d = simd::at_most(simd::at_least(raw, simd::splat(plan.clip_low)), simd::splat(plan.clip_high));
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
    if (!kFixed && plan.has_pull) sum = plan.pull[slot] * f + sum;
    if (noises > 0) sum = plan.noise[0][slot] * load(s.noise[0] + i) + sum;
    if (noises > 1) sum = plan.noise[1][slot] * load(s.noise[1] + i) + sum;
    bad[slot] = bad[slot] + sum * 0.0f;
    y[slot] = sum;
  }
  if (s.mask) {
    F known = plan.known_scale * load(s.known + i);
    if (s.known_eps) known += plan.known_noise * load(s.known_eps + i);
    y[0] = known + load(s.mask + i) * (y[0] - known);
  }
  AE_UNROLL
  for (int slot = 0; slot < Slots; ++slot) {
    if (used(slot)) store(s.slots[slot] + i, y[slot]);
  }
  const F input = plan.c_in * y[0];
  for (float* const target : s.input) {
    if (!target) continue;
    if (kWhole && s.past_caches) {
      simd::stream(target + i, input);
    } else {
      store(target + i, input);
    }
  }
}

// `count` elements of one sample; returns whether anything was not finite.
template <int Slots, int Halves, int Noises>
bool step(const SolverStepPlan& given_plan, const Streams& given_streams, int64_t count) {
  // Copies that no store can reach stay in registers; what kMaxSlots needs would not fit there.
  std::conditional_t<(Slots < kMaxSlots), const SolverStepPlan, const SolverStepPlan&> plan = given_plan;
  const Streams s = given_streams;
  F bad[Slots] = {};
  const auto part = [&](int64_t i, int64_t left) {
    step_vector<Slots, Halves, Noises, false>(
        plan, s, i, bad, [left](const float* p) { return simd::load_part(p, left); },
        [left](float* p, F x) { simd::store_part(p, x, left); });
  };
  int64_t i = s.past_caches ? simd::before_aligned(s.input[0]) : 0;
  if (i > count) i = count;
  if (i > 0) part(0, i);
  for (; i + kLanes <= count; i += kLanes) {
    step_vector<Slots, Halves, Noises, true>(plan, s, i, bad, simd::load, simd::store);
  }
  if (i < count) part(i, count - i);
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
  switch (plan.has_pull ? kMaxSlots : plan.slots) {
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

// The plan of one sample whose own statistics count.
SolverStepPlan plan_of_sample(const SolverStepParams& p, SolverStepPlan plan, int64_t sample) {
  const NetworkOutput output(p);
  if (plan.halves == 2 && p.rescale != 0.0) {
    double sums[4] = {};
    for (int64_t e = 0; e < p.elements; ++e) {
      const float conditional = output.read(0, sample, e), f = guided(plan, conditional, output.read(1, sample, e));
      sums[0] += f;
      sums[1] += double{f} * f;
      sums[2] += conditional;
      sums[3] += double{conditional} * conditional;
    }
    rescale_guidance(plan, p.rescale, static_cast<double>(p.elements), sums);
  }
  if (p.clip_mode != kClipDynamic) return plan;
  Quantile quantile = Quantile::of(p.elements, p.clip_low);
  while (quantile.pass < Quantile::kPasses - 1) {
    uint32_t bins[Quantile::kBins] = {};
    for (int64_t e = 0; e < p.elements; ++e) {
      const uint32_t bits = output.bits_of_denoised(plan, sample, e);
      if (Quantile::counts(quantile, bits)) ++bins[Quantile::bin(quantile, bits)];
    }
    Quantile::narrow(quantile, bins);
  }
  uint32_t successor = ~0u;
  for (int64_t e = 0; e < p.elements; ++e) {
    const uint32_t bits = output.bits_of_denoised(plan, sample, e);
    if (bits > quantile.prefix && bits < successor) successor = bits;
  }
  clip_dynamically(plan, Quantile::value(quantile, successor), p.clip_high);
  return plan;
}

}  // namespace

void solver_step(const SolverStepParams& p, int64_t begin, int64_t end) {
  SolverStepPlan plan = plan_solver_step(p);
  const Step step = choose_step(plan);
  const int64_t batch = p.samples * p.elements;
  const NetworkOutput output(p);
  const NetworkInput input(p);
  alignas(64) float noise[2][kTile], given[2][kTile], wanted[kTile];
  const bool large = p.net_input && !input.converted() && traffic(p) >= kStreamBytes;
  const auto work = [&](int64_t sample, int64_t first, int64_t count) {
    bool bad = false;
    const bool tiled = plan.noises || output.converted() || input.converted();
    const int64_t tile = tiled ? kTile : count;
    for (int64_t at = first; at < first + count; at += tile) {
      const int64_t size = first + count - at < tile ? first + count - at : tile;
      const int64_t offset = sample * p.elements + at;
      Streams s = {};
      for (int slot = 0; slot < plan.slots; ++slot) s.slots[slot] = p.slots + slot * batch + offset;
      for (int half = 0; half < plan.halves; ++half) s.output[half] = output.tile(half, sample, at, size, given[half]);
      for (int half = 0; p.net_input && half < p.input_halves; ++half) {
        s.input[half] = input.converted() ? (half == 0 ? wanted : nullptr) : input.plain(half) + offset;
      }
      for (int i = 0; i < plan.noises; ++i) {
        s.noise[i] = plan.eps[i] ? plan.eps[i] + offset : noise[i];
        if (!plan.eps[i]) simd::fill_normals(p.seeds[sample], plan.draw[i], at, size, noise[i]);
      }
      // Both halves are aligned by the same few elements, or neither is written past the caches.
      s.past_caches = large && (!s.input[1] || simd::before_aligned(s.input[0]) == simd::before_aligned(s.input[1]));
      if (p.mask) {
        s.mask = p.mask + offset;
        s.known = p.known + offset;
        s.known_eps = p.known_noise != 0.0 ? p.known_eps + offset : nullptr;
      }
      bad = step(plan, s, size) || bad;
      if (input.converted()) input.store(wanted, sample, at, size);
    }
    if (!bad || !p.nonfinite) return;
    int32_t none = 0;  // other threads may say the same
    __atomic_compare_exchange_n(p.nonfinite + sample, &none, p.mark, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  };
  if (!needs_statistics(p)) {
    for_each_block(begin, end, p.elements, work);
    if (large) simd::fence();
    return;
  }
  const SolverStepPlan common = plan;
  for (int64_t sample = begin; sample < end; ++sample) {
    plan = plan_of_sample(p, common, sample);
    work(sample, 0, p.elements);
  }
  if (large) simd::fence();
}

}  // namespace ae::ops::AIGC_EDGE_ISA
