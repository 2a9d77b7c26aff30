#include "ops/blend_tile/kernel.cuh"
