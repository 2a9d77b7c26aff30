// CUDA kernel of randn: one thread makes the four normals of one Philox counter.
#pragma once

#include "core/philox.hpp"
#include "ops/quads.cuh"
#include "ops/randn/params.hpp"

namespace ae::ops::cuda {

template <class Access>
__global__ void __launch_bounds__(ae::cuda::kThreads) randn_kernel(RandnParams p) {
  const int64_t quad = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (4 * quad >= p.elements) return;
  for (int64_t sample = blockIdx.y; sample < p.samples; sample += gridDim.y) {
    Quad z;
    philox::normals4(p.seeds[sample], p.draw, static_cast<uint32_t>(quad), z.v);
    Access::store(p.out + sample * p.elements + 4 * quad, z, p.elements - 4 * quad);
  }
}

void randn(const RandnParams& p) {
  if (p.samples == 0 || p.elements == 0) return;
  const ae::cuda::DeviceGuard guard(p.launch.device.index);
  const dim3 grid = quad_grid(p.samples, p.elements);
  if (p.elements % 4 == 0 && ae::cuda::aligned16(p.out)) {
    AE_LAUNCH(randn_kernel<WholeQuads>, grid, ae::cuda::kThreads, p.launch.stream, p);
  } else {
    AE_LAUNCH(randn_kernel<PartQuads>, grid, ae::cuda::kThreads, p.launch.stream, p);
  }
  ae::cuda::check(cudaGetLastError(), "launching randn");
}

}  // namespace ae::ops::cuda
