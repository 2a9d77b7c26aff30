// Inputs of the denoiser that a prompt or the caller gives: the same in every row, other ones in the half that guidance leads
// away from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "core/buffer.hpp"
#include "runtime/component.hpp"

namespace ae {

// Throws Error(kInvalidArgument) unless `tensors` are exactly the denoiser's conditions (which may be none), float32, with
// `samples` rows or one for all. `what` names them in messages.
void check_conditions(const Component* denoiser, const ae_tensor* const* tensors, size_t count, int64_t samples,
                      const std::string& what);

// Buffers of the denoiser's inputs of the role condition.
class Conditions {
 public:
  Conditions(const Component* denoiser, const Memory& memory);

  void reserve(int64_t samples);          // what was returned by `input` before is gone
  float* input(const std::string& name);  // [samples, ...], until the next `reserve`
  // Copies rows first … first + samples - 1 of tensors that were checked (of one with one row: that one) to rows `at` ….
  void fill(const ae_tensor* const* tensors, size_t count, int64_t first, int64_t samples, int64_t at);

 private:
  struct Input {
    int64_t elements;  // of one sample
    Buffer<float> data;
  };

  const Memory& memory_;
  std::map<std::string, Input> inputs_;
};

}  // namespace ae
