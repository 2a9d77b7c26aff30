#include "ops/latent_to_rgb8/kernel.cuh"
