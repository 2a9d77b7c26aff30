// CUDA kernels of solver_step: one thread does everything for four elements, so each is read and written once.
#pragma once

#include "ops/quads.cuh"
#include "ops/solver_step/plan.hpp"
#include "ops/solver_step/quantile.hpp"

namespace ae::ops::cuda {

// Where four elements of the network's tensors are. The usual case: one dtype, known when compiled, in the order of the slots.
template <class Access, DType kDType>
struct PlainNetwork {
  static constexpr bool kUsual = true;
  using Slots = Access;
  static __device__ __forceinline__ Quad load(const SolverStepParams& p, int half, int64_t sample, int64_t e, int64_t left) {
    return Access::template load_as<kDType>(p.output, (half * p.samples + sample) * p.elements + e, left);
  }
  static __device__ __forceinline__ void store(const SolverStepParams& p, int half, int64_t sample, int64_t e, const Quad& q,
                                               int64_t left) {
    Access::template store_as<kDType>(p.net_input, (half * p.samples + sample) * p.elements + e, q, left);
  }
};

// Any dtype and layout, and with it everything else that is rare: known regions, given noise, R itself, statistics.
struct AnyNetwork {
  static constexpr bool kUsual = false;
  using Slots = PartQuads;
  static __device__ __forceinline__ Quad load(const SolverStepParams& p, int half, int64_t sample, int64_t e, int64_t left) {
    const int64_t start = half * p.samples * p.elements;
    Quad q = {};
    for (int i = 0; i < 4 && i < left; ++i) {
      q.v[i] = read_as(p.output, p.output_dtype, start + network_index(p.elements, p.channels, sample, e + i));
    }
    return q;
  }
  static __device__ __forceinline__ void store(const SolverStepParams& p, int half, int64_t sample, int64_t e, const Quad& q,
                                               int64_t left) {
    const int64_t start = half * p.samples * p.elements;
    for (int i = 0; i < 4 && i < left; ++i) {
      write_as(p.net_input, p.input_dtype, start + network_index(p.elements, p.channels, sample, e + i), q.v[i]);
    }
  }
};

// The network's output with guidance.
template <class Network>
__device__ __forceinline__ Quad load_output(const SolverStepPlan& plan, const SolverStepParams& p, int64_t sample, int64_t e,
                                            int64_t left) {
  Quad f = Network::load(p, 0, sample, e, left);
  if (plan.halves < 2) return f;
  const Quad unconditional = Network::load(p, 1, sample, e, left);
#pragma unroll
  for (int i = 0; i < 4; ++i) f.v[i] = guided(plan, f.v[i], unconditional.v[i]);
  return f;
}

// Four elements from `e` on. Slots is the plan's number, or kMaxSlots for any: `used` then masks the rest, and all stays in
// registers.
template <int Slots, class Network>
__device__ __forceinline__ void step_quad(const SolverStepPlan& plan, const SolverStepParams& p, int64_t sample, int64_t e) {
  const int64_t left = p.elements - e, batch = p.samples * p.elements, offset = sample * p.elements + e;
  const auto used = [&plan](int slot) { return Slots < kMaxSlots || slot < plan.slots; };
  Quad x[Slots], y[Slots], d = {}, f = {};
#pragma unroll
  for (int slot = 0; slot < Slots; ++slot) {
    if (used(slot)) x[slot] = Network::Slots::load(p.slots + slot * batch + offset, left);
  }
  if (plan.halves > 0) f = load_output<Network>(plan, p, sample, e, left);
  float bad = 0.0f;  // stays zero unless something was infinite or not a number
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (plan.halves > 0) {
      float denoised = plan.c_skip * x[0].v[i] + plan.c_out * f.v[i];
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
      if (!Network::kUsual && plan.has_pull) sum = plan.pull[slot] * f.v[i] + sum;
      y[slot].v[i] = sum;
    }
  }
#pragma unroll 1
  for (int source = 0; source < plan.noises; ++source) {  // one copy of Philox in the code
    Quad noise;
    if (!Network::kUsual && plan.eps[source]) {
      noise = PartQuads::load(plan.eps[source] + offset, left);
    } else {
      philox::normals4(p.seeds[sample], plan.draw[source], static_cast<uint32_t>(e / 4), noise.v);
    }
#pragma unroll
    for (int slot = 0; slot < Slots; ++slot) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (used(slot)) y[slot].v[i] += plan.noise[source][slot] * noise.v[i];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int slot = 0; slot < Slots; ++slot) {
      if (used(slot)) bad += y[slot].v[i] * 0.0f;
    }
  }
  if (!Network::kUsual && p.mask) {
    const Quad mask = PartQuads::load(p.mask + offset, left), image = PartQuads::load(p.known + offset, left);
    const Quad eps = p.known_noise != 0.0 ? PartQuads::load(p.known_eps + offset, left) : Quad{};
    for (int i = 0; i < 4; ++i) {
      const float known = plan.known_scale * image.v[i] + plan.known_noise * eps.v[i];
      y[0].v[i] = known + mask.v[i] * (y[0].v[i] - known);
    }
  }
#pragma unroll
  for (int slot = 0; slot < Slots; ++slot) {
    if (used(slot)) Network::Slots::store(p.slots + slot * batch + offset, y[slot], left);
  }
  if (p.net_input) {
    Quad input;
#pragma unroll
    for (int i = 0; i < 4; ++i) input.v[i] = plan.c_in * y[0].v[i];
    Network::store(p, 0, sample, e, input, left);
    if (p.input_halves > 1) Network::store(p, 1, sample, e, input, left);
  }
  if (bad != bad && p.nonfinite && p.nonfinite[sample] == 0) p.nonfinite[sample] = p.mark;  // whoever writes writes the same
}

template <int Slots, class Network>
__global__ void __launch_bounds__(ae::cuda::kThreads) solver_step_kernel(SolverStepPlan plan, SolverStepParams p) {
  const int64_t e = 4 * (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x);
  if (e >= p.elements) return;
  for (int64_t sample = blockIdx.y; sample < p.samples; sample += gridDim.y) step_quad<Slots, Network>(plan, p, sample, e);
}

// A block's sum in a fixed order, known to all its threads; `room` holds one number a thread.
__device__ __forceinline__ double block_sum(double value, double* room) {
  room[threadIdx.x] = value;
  __syncthreads();
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) room[threadIdx.x] += room[threadIdx.x + half];
    __syncthreads();
  }
  const double sum = room[0];
  __syncthreads();
  return sum;
}

// The plan of one sample whose own statistics count; every thread of the block takes part.
__device__ __forceinline__ SolverStepPlan plan_of_sample(SolverStepPlan plan, const SolverStepParams& p, int64_t sample) {
  __shared__ double room[ae::cuda::kThreads];
  __shared__ uint32_t bins[Quantile::kBins];
  __shared__ uint32_t least;
  if (plan.halves == 2 && p.rescale != 0.0) {
    double sums[4] = {};
    for (int64_t e = threadIdx.x; e < p.elements; e += blockDim.x) {
      const float conditional = AnyNetwork::load(p, 0, sample, e, 1).v[0];
      const float f = load_output<AnyNetwork>(plan, p, sample, e, 1).v[0];
      sums[0] += f;
      sums[1] += double{f} * f;
      sums[2] += conditional;
      sums[3] += double{conditional} * conditional;
    }
    for (int i = 0; i < 4; ++i) sums[i] = block_sum(sums[i], room);
    rescale_guidance(plan, p.rescale, static_cast<double>(p.elements), sums);
  }
  if (p.clip_mode != kClipDynamic) return plan;
  const auto bits_of_denoised = [&](int64_t e) {
    const float f = load_output<AnyNetwork>(plan, p, sample, e, 1).v[0];
    return bits_of(plan.c_skip * p.slots[sample * p.elements + e] + plan.c_out * f) & 0x7FFFFFFFu;
  };
  Quantile quantile = Quantile::of(p.elements, p.clip_low);
  while (quantile.pass < Quantile::kPasses - 1) {
    for (int bin = threadIdx.x; bin < Quantile::kBins; bin += blockDim.x) bins[bin] = 0;
    __syncthreads();
    for (int64_t e = threadIdx.x; e < p.elements; e += blockDim.x) {
      const uint32_t bits = bits_of_denoised(e);
      if (Quantile::counts(quantile, bits)) atomicAdd(&bins[Quantile::bin(quantile, bits)], 1u);
    }
    __syncthreads();
    Quantile::narrow(quantile, bins);
    __syncthreads();
  }
  if (threadIdx.x == 0) least = ~0u;
  __syncthreads();
  for (int64_t e = threadIdx.x; e < p.elements; e += blockDim.x) {
    const uint32_t bits = bits_of_denoised(e);
    if (bits > quantile.prefix) atomicMin(&least, bits);
  }
  __syncthreads();
  clip_dynamically(plan, Quantile::value(quantile, least), p.clip_high);
  __syncthreads();
  return plan;
}

// One block a sample, because what is done to its elements depends on all of them.
static __global__ void __launch_bounds__(ae::cuda::kThreads) solver_step_sample_kernel(SolverStepPlan plan, SolverStepParams p) {
  for (int64_t sample = blockIdx.x; sample < p.samples; sample += gridDim.x) {
    const SolverStepPlan own = plan_of_sample(plan, p, sample);
    for (int64_t e = 4 * threadIdx.x; e < p.elements; e += 4 * blockDim.x) step_quad<kMaxSlots, AnyNetwork>(own, p, sample, e);
    __syncthreads();
  }
}

template <class Access, DType kDType>
void launch_usual(const SolverStepPlan& plan, const SolverStepParams& p, dim3 grid) {
  using Network = PlainNetwork<Access, kDType>;
  constexpr int kThreads = ae::cuda::kThreads;
  void* const stream = p.launch.stream;
  if (plan.slots == 1) {
    AE_LAUNCH((solver_step_kernel<1, Network>), grid, kThreads, stream, plan, p);
  } else if (plan.slots == 2) {
    AE_LAUNCH((solver_step_kernel<2, Network>), grid, kThreads, stream, plan, p);
  } else if (plan.slots == 3) {
    AE_LAUNCH((solver_step_kernel<3, Network>), grid, kThreads, stream, plan, p);
  } else if (plan.slots == 4) {
    AE_LAUNCH((solver_step_kernel<4, Network>), grid, kThreads, stream, plan, p);
  }
}

void solver_step(const SolverStepParams& p) {
  if (p.samples == 0 || p.elements == 0) return;
  const ae::cuda::DeviceGuard guard(p.launch.device.index);
  const SolverStepPlan plan = plan_solver_step(p);
  const dim3 grid = quad_grid(p.samples, p.elements);
  constexpr int kThreads = ae::cuda::kThreads;
  const DType dtype = p.output ? p.output_dtype : p.input_dtype;
  const bool mixed = p.output && p.net_input && p.output_dtype != p.input_dtype;
  // More than four slots are rare, and would take a third of the compile time.
  const bool usual = plan.slots <= 4 && !mixed && p.channels <= 1 && !p.mask && !plan.has_pull && !plan.eps[0] && !plan.eps[1];
  // One batch of aligned whole quads starts every following slot and half aligned too.
  const bool whole =
      p.elements % 4 == 0 && ae::cuda::aligned16(p.slots) && ae::cuda::aligned16(p.output) && ae::cuda::aligned16(p.net_input);
  if (needs_statistics(p)) {
    const auto blocks = static_cast<unsigned>(std::min(p.samples, ae::cuda::kMaxGridX));
    AE_LAUNCH(solver_step_sample_kernel, dim3(blocks), kThreads, p.launch.stream, plan, p);
  } else if (!usual || !whole) {
    AE_LAUNCH((solver_step_kernel<kMaxSlots, AnyNetwork>), grid, kThreads, p.launch.stream, plan, p);
  } else if (dtype == DType::kFloat32) {
    launch_usual<WholeQuads, DType::kFloat32>(plan, p, grid);
  } else if (dtype == DType::kFloat16) {
    launch_usual<WholeQuads, DType::kFloat16>(plan, p, grid);
  } else {
    launch_usual<WholeQuads, DType::kBfloat16>(plan, p, grid);
  }
  ae::cuda::check(cudaGetLastError(), "launching solver_step");
}

}  // namespace ae::ops::cuda
