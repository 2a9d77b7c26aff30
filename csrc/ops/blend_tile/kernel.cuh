// CUDA kernel of blend_tile: one thread adds one element in some planes.
#pragma once

#include "core/cuda.cuh"
#include "ops/blend_tile/params.hpp"

namespace ae::ops::cuda {

static __global__ void __launch_bounds__(ae::cuda::kThreads) blend_tile_kernel(BlendTileParams p) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, elements = p.tile_height * p.tile_width;
  if (at >= elements) return;
  const int64_t i = at / p.tile_width, j = at % p.tile_width;
  const float weight = p.rows[i] * p.columns[j];
  for (int64_t plane = blockIdx.y; plane < p.samples * p.channels; plane += gridDim.y)
    p.image[(plane * p.height + p.top + i) * p.width + p.left + j] += weight * p.tile[plane * elements + at];
}

void blend_tile(const BlendTileParams& p) {
  const int64_t planes = p.samples * p.channels, elements = p.tile_height * p.tile_width;
  if (planes == 0 || elements == 0) return;
  const ae::cuda::DeviceGuard guard(p.launch.device.index);
  const dim3 grid(static_cast<unsigned>(ae::cuda::divide_up(elements, ae::cuda::kThreads)),
                  static_cast<unsigned>(std::min(planes, ae::cuda::kMaxGridY)));
  AE_LAUNCH(blend_tile_kernel, grid, ae::cuda::kThreads, p.launch.stream, p);
  ae::cuda::check(cudaGetLastError(), "launching blend_tile");
}

}  // namespace ae::ops::cuda
