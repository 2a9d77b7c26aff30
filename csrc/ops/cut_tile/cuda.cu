#include "ops/cut_tile/kernel.cuh"
