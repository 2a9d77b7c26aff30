#include "core/device.hpp"

#if defined(AIGC_EDGE_CUDA)
#include <cuda_runtime_api.h>
#endif

namespace ae {

#if defined(AIGC_EDGE_EMULATE_CUDA)

std::string cuda_unavailable() { return ""; }

const char* cuda_architectures() { return "emulated"; }

#elif defined(AIGC_EDGE_CUDA)

std::string cuda_unavailable() {
  int count = 0;  // the call leaves it untouched when it fails
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return "";
  cudaGetLastError();                          // so that it does not stick to the caller's next call
  if (error == cudaErrorInsufficientDriver) {  // also what comes without any driver
    return "there is no NVIDIA driver, or it is older than CUDA " + std::to_string(CUDART_VERSION / 1000) +
           " needs: install or update it";
  }
  if (error == cudaErrorNoDevice || error == cudaSuccess) return "there is a driver and no CUDA device that it can use";
  return std::string("CUDA cannot be used: ") + cudaGetErrorString(error);
}

const char* cuda_architectures() { return AIGC_EDGE_CUDA_ARCHS; }

#else

std::string cuda_unavailable() {
  return "this build has no CUDA kernels: install the CUDA toolkit and build again, with AIGC_EDGE_CUDA=ON to be sure";
}

const char* cuda_architectures() { return ""; }

#endif

}  // namespace ae
