#include <string>
#include <type_traits>

#include "ops/define_op.hpp"
#include "ops/solver_step/plan.hpp"

namespace ae::ops {
namespace {

bool any_nonzero(const double* values, int64_t count) {
  for (int64_t i = 0; values && i < count; ++i) {
    if (values[i] != 0.0) return true;
  }
  return false;
}

// The message in parts, joined only when it is needed: nothing may be allocated between two evaluations.
template <class... Parts>
void require(bool holds, const Parts&... parts) {
  if (holds) return;
  const auto text = [](const auto& part) {
    if constexpr (std::is_arithmetic_v<std::decay_t<decltype(part)>>) {
      return number_text(part);
    } else {
      return std::string(part);
    }
  };
  throw Error(kInvalidArgument, "solver_step: " + (text(parts) + ...));
}

SolverStepParams bind(Arguments& arguments) {
  SolverStepParams p;
  Size s{"S", p.slot_count}, n{"N", p.samples}, e{"E", p.elements}, g{"G", p.output_halves}, k{"K", p.input_halves};
  arguments.tensor("slots", p.slots, kInout, {s, n, e});
  arguments.tensor("output", p.output, p.output_dtype, kOptionalIn, {g, n, e});
  arguments.scalar("guidance", p.guidance);
  arguments.scalar("c_skip", p.c_skip);
  arguments.scalar("c_out", p.c_out);
  arguments.scalar("clip_mode", p.clip_mode);
  arguments.scalar("clip_low", p.clip_low);
  arguments.scalar("clip_high", p.clip_high);
  arguments.tensor("after", p.after, kOptionalHost, {s, s + 1});
  arguments.tensor("after_noise", p.after_noise, kOptionalHost, {s});
  arguments.scalar("after_draw", p.after_draw);
  arguments.tensor("before", p.before, kOptionalHost, {s, s});
  arguments.tensor("before_noise", p.before_noise, kOptionalHost, {s});
  arguments.scalar("before_draw", p.before_draw);
  arguments.scalar("c_in", p.c_in);
  arguments.tensor("net_input", p.net_input, p.input_dtype, kOptionalOut, {k, n, e});
  arguments.tensor("seeds", p.seeds, kOptionalIn, {n});
  arguments.tensor("nonfinite", p.nonfinite, kOptionalInout, {n});
  arguments.scalar("mark", p.mark);
  arguments.scalar("channels", p.channels);
  arguments.scalar("rescale", p.rescale);
  arguments.tensor("after_output", p.after_output, kOptionalHost, {s});
  arguments.tensor("after_eps", p.after_eps, kOptionalIn, {n, e});
  arguments.tensor("before_eps", p.before_eps, kOptionalIn, {n, e});
  arguments.tensor("mask", p.mask, kOptionalIn, {n, e});
  arguments.tensor("known", p.known, kOptionalIn, {n, e});
  arguments.tensor("known_eps", p.known_eps, kOptionalIn, {n, e});
  arguments.scalar("known_scale", p.known_scale);
  arguments.scalar("known_noise", p.known_noise);
  return p;
}

Work check(const SolverStepParams& p) {
  require(p.slot_count >= 1 && p.slot_count <= kMaxSlots, p.slot_count, " slots were given: 1 to ", kMaxSlots, " are allowed");
  require(p.samples >= 0 && p.elements >= 0, "a size is negative");
  require(p.elements <= int64_t{1} << 34, "a sample has more than 2^34 elements, which is all that its noise can number");
  require(!p.output == !p.after, "output and after must both be given (after a row) or both be absent (before row 0)");
  require(p.output_halves == 1 || p.output_halves == 2, "output has ", p.output_halves, " halves: 1 or 2 are allowed");
  require(p.input_halves == 1 || p.input_halves == 2, "net_input has ", p.input_halves, " halves: 1 or 2 are allowed");
  require(p.clip_mode >= kClipNone && p.clip_mode <= kClipDynamic, "clip_mode is ", p.clip_mode,
          ": 0 (none), 1 (range) and 2 (dynamic) are allowed");
  require(p.clip_mode != kClipRange || p.clip_low <= p.clip_high, "clip_low is above clip_high");
  require(p.clip_mode != kClipDynamic || (p.clip_low >= 0 && p.clip_low <= 1 && p.clip_high >= 1),
          "dynamic clipping takes a quantile of 0 to 1 in clip_low and a bound of at least 1 in clip_high");
  require(p.rescale >= 0 && p.rescale <= 1, "rescale is ", p.rescale, ": 0 to 1 is allowed");
  require(p.after || !p.after_output, "after_output needs after");
  require(!p.mask == !p.known, "mask and known must both be given or both be absent");
  require(!p.mask || p.known_noise == 0.0 || p.known_eps, "known_noise is not 0 and known_eps is absent");
  require(p.channels >= 0 && (p.channels <= 1 || p.elements % p.channels == 0), p.channels, " channels do not divide ",
          p.elements, " elements");
  const bool noisy =
      (any_nonzero(p.after_noise, p.slot_count) && !p.after_eps) || (any_nonzero(p.before_noise, p.slot_count) && !p.before_eps);
  require(p.seeds || !noisy || p.samples == 0, "noise is asked for and seeds is absent: give one uint64 a sample");
  const bool whole = needs_statistics(p);  // statistics are of a whole sample
  return {whole ? p.samples : p.samples * blocks_per_sample(p.elements), traffic(p)};
}

}  // namespace

AE_DEFINE_OP(solver_step, SolverStepParams, AE_CUDA_KERNEL(solver_step))

}  // namespace ae::ops
