// Inputs of the denoiser that its row fixes: the timestep, the guidance weight and the schedule constants.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "core/buffer.hpp"
#include "runtime/constants.hpp"

namespace ae {

// Their buffers: of one row that is filled anew before each evaluation, or of all rows of a program, which a CUDA graph reads.
class RowInputs {
 public:
  // For network batches of up to `samples`; guidance is [samples] too.
  RowInputs(const Constants& constants, int64_t rows, int64_t samples, const Memory& memory);

  float* timestep(int64_t row) { return timesteps_.data() + row * stride(1); }
  float* guidance(int64_t row) { return guidance_.data() + row * stride(1); }
  float* constant(const std::string& name, int64_t row);

  // Writes the inputs of a batch into a row; `constants` are those of the timestep, null where there are none.
  void fill(int64_t row, float timestep, float weight, const uint8_t* constants, int64_t samples);

 private:
  // Rows begin where engines want their inputs: at whole 256 bytes.
  int64_t stride(int64_t elements) const { return (samples_ * elements + 63) / 64 * 64; }

  const Constants& values_;
  const int64_t rows_, samples_;
  const Memory& memory_;
  Buffer<float> timesteps_, guidance_;              // [rows, stride(1)]
  std::map<std::string, Buffer<float>> constants_;  // [rows, stride(elements)]
  float filled_timestep_ = 0;                       // of the constants, where there is one row
  int64_t filled_ = 0;                              // samples
};

}  // namespace ae
