#include "ops/solver_step/kernel.cuh"
