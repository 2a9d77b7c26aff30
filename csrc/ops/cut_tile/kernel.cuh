// CUDA kernel of cut_tile: one thread copies one element in some planes.
#pragma once

#include "core/cuda.cuh"
#include "ops/cut_tile/params.hpp"

namespace ae::ops::cuda {

static __global__ void __launch_bounds__(ae::cuda::kThreads) cut_tile_kernel(CutTileParams p) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, elements = p.tile_height * p.tile_width;
  if (at >= elements) return;
  const int64_t y = p.top + at / p.tile_width, x = p.left + at % p.tile_width;
  for (int64_t plane = blockIdx.y; plane < p.samples * p.channels; plane += gridDim.y)
    p.tile[plane * elements + at] = p.image[(plane * p.height + y) * p.width + x];
}

void cut_tile(const CutTileParams& p) {
  const int64_t planes = p.samples * p.channels, elements = p.tile_height * p.tile_width;
  if (planes == 0 || elements == 0) return;
  const ae::cuda::DeviceGuard guard(p.launch.device.index);
  const dim3 grid(static_cast<unsigned>(ae::cuda::divide_up(elements, ae::cuda::kThreads)),
                  static_cast<unsigned>(std::min(planes, ae::cuda::kMaxGridY)));
  AE_LAUNCH(cut_tile_kernel, grid, ae::cuda::kThreads, p.launch.stream, p);
  ae::cuda::check(cudaGetLastError(), "launching cut_tile");
}

}  // namespace ae::ops::cuda
