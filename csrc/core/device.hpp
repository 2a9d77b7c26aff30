// What this build and this machine offer beside the CPU.
#pragma once

#include <string>

namespace ae {

// Empty when CUDA kernels can run here, else the sentence why not. Touches the driver, and creates no context.
std::string cuda_unavailable();

// GPU architectures that the CUDA kernels were compiled for, such as "75,80,86"; empty in a build without CUDA.
const char* cuda_architectures();

}  // namespace ae
