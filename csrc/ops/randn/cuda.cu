#include "ops/randn/kernel.cuh"
