// CUDA kernel of solver_step: one thread does everything for four elements, so each is read and written once.
#pragma once

#include "ops/quads.cuh"
#include "ops/solver_step/plan.hpp"

namespace ae::ops::cuda {

struct SolverStepPointers {
  float* slots;
  const float* output;
  float* net_input;
  const uint64_t* seeds;
  int32_t* nonfinite;
  int64_t samples, elements;
  int32_t input_halves;
};

// Slots is the plan's number, or kMaxSlots for any: `used` then masks the rest, and all stays in registers.
template <int Slots, class Access>
__global__ void __launch_bounds__(ae::cuda::kThreads) solver_step_kernel(SolverStepPlan plan, SolverStepPointers p) {
  const int64_t quad = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t left = p.elements - 4 * quad;
  if (left <= 0) return;
  const int64_t batch = p.samples * p.elements;
  const auto used = [&plan](int slot) { return Slots < kMaxSlots || slot < plan.slots; };
  for (int64_t sample = blockIdx.y; sample < p.samples; sample += gridDim.y) {
    const int64_t offset = sample * p.elements + 4 * quad;
    Quad x[Slots], y[Slots], d = {};
#pragma unroll
    for (int slot = 0; slot < Slots; ++slot) {
      if (used(slot)) x[slot] = Access::load(p.slots + slot * batch + offset, left);
    }
    if (plan.halves > 0) d = Access::load(p.output + offset, left);
    if (plan.halves > 1) {
      const Quad unconditional = Access::load(p.output + batch + offset, left);
#pragma unroll
      for (int i = 0; i < 4; ++i) d.v[i] = unconditional.v[i] + plan.guidance * (d.v[i] - unconditional.v[i]);
    }
    float bad = 0.0f;  // stays zero unless something was infinite or not a number
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (plan.halves > 0) {
        float denoised = plan.c_skip * x[0].v[i] + plan.c_out * d.v[i];
        bad += denoised * 0.0f;
        denoised = denoised < plan.clip_low ? plan.clip_low : denoised;
        d.v[i] = denoised > plan.clip_high ? plan.clip_high : denoised;
      }
#pragma unroll
      for (int slot = 0; slot < Slots; ++slot) {
        if (!used(slot)) continue;
        float sum = plan.matrix[slot][0] * x[0].v[i];
#pragma unroll
        for (int from = 1; from < Slots; ++from) {
          if (used(from)) sum = plan.matrix[slot][from] * x[from].v[i] + sum;
        }
        if (plan.halves > 0) sum = plan.matrix[slot][Slots < kMaxSlots ? Slots : plan.slots] * d.v[i] + sum;
        y[slot].v[i] = sum;
      }
    }
#pragma unroll 1
    for (int source = 0; source < plan.noises; ++source) {  // one copy of Philox in the code
      Quad noise;
      philox::normals4(p.seeds[sample], plan.draw[source], static_cast<uint32_t>(quad), noise.v);
#pragma unroll
      for (int slot = 0; slot < Slots; ++slot) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (used(slot)) y[slot].v[i] += plan.noise[source][slot] * noise.v[i];
        }
      }
    }
    Quad input;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int slot = 0; slot < Slots; ++slot) {
        if (used(slot)) bad += y[slot].v[i] * 0.0f;
      }
      input.v[i] = plan.c_in * y[0].v[i];
    }
#pragma unroll
    for (int slot = 0; slot < Slots; ++slot) {
      if (used(slot)) Access::store(p.slots + slot * batch + offset, y[slot], left);
    }
    if (p.net_input) {
      Access::store(p.net_input + offset, input, left);
      if (p.input_halves > 1) Access::store(p.net_input + batch + offset, input, left);
    }
    if (bad != bad && p.nonfinite) p.nonfinite[sample] = 1;  // whoever writes writes the same
  }
}

void solver_step(const SolverStepParams& p) {
  if (p.samples == 0 || p.elements == 0) return;
  const ae::cuda::DeviceGuard guard(p.launch.device);
  const SolverStepPlan plan = plan_solver_step(p);
  const SolverStepPointers pointers = {p.slots,     p.output,  p.net_input, p.seeds,
                                       p.nonfinite, p.samples, p.elements,  static_cast<int32_t>(p.input_halves)};
  const dim3 grid = quad_grid(p.samples, p.elements);
  constexpr int kThreads = ae::cuda::kThreads;
  void* const stream = p.launch.stream;
  // One batch of aligned whole quads starts every following slot and half aligned too.
  const bool whole =
      p.elements % 4 == 0 && ae::cuda::aligned16(p.slots) && ae::cuda::aligned16(p.output) && ae::cuda::aligned16(p.net_input);
  if (!whole) {
    AE_LAUNCH((solver_step_kernel<kMaxSlots, PartQuads>), grid, kThreads, stream, plan, pointers);
  } else if (plan.slots == 1) {
    AE_LAUNCH((solver_step_kernel<1, WholeQuads>), grid, kThreads, stream, plan, pointers);
  } else if (plan.slots == 2) {
    AE_LAUNCH((solver_step_kernel<2, WholeQuads>), grid, kThreads, stream, plan, pointers);
  } else if (plan.slots == 3) {
    AE_LAUNCH((solver_step_kernel<3, WholeQuads>), grid, kThreads, stream, plan, pointers);
  } else if (plan.slots == 4) {
    AE_LAUNCH((solver_step_kernel<4, WholeQuads>), grid, kThreads, stream, plan, pointers);
  } else {
    AE_LAUNCH((solver_step_kernel<kMaxSlots, WholeQuads>), grid, kThreads, stream, plan, pointers);
  }
  ae::cuda::check(cudaGetLastError(), "launching solver_step");
}

}  // namespace ae::ops::cuda
