// A whole program's rows (csrc/runtime/rows.hpp) with the CUDA kernels and with the CPU kernels, around a network in between.
#include "emulated_rows.hpp"

#include <cmath>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "core/cuda.cuh"
#include "core/json.hpp"
#include "runtime/rows.hpp"

namespace {

constexpr int64_t kSamples = 3, kElements = 2 * 37, kChannels = 2;

// Memory of exactly its size, so that the sanitizer knows the bounds.
std::unique_ptr<float[]> numbers(size_t count, float phase) {
  std::unique_ptr<float[]> values(new float[count]);
  for (size_t i = 0; i < count; ++i) values[i] = std::sin(phase + 1.3f * static_cast<float>(i));
  return values;
}

std::vector<float> run(ae::Device device, bool masked, bool own_noise, int32_t channels) {
  const ae::JsonDocument document(kProgram, "program");
  const ae::Program program = ae::parse_program(document.root());
  ae::Rows rows(program, {program.guidance_scale, program.guidance_rescale});
  const size_t all = kSamples * kElements;
  const auto slots = numbers(2 * all, 0.1f), input = numbers(2 * all, 0), output = numbers(2 * all, 0),
             noise = numbers(2 * all, 0.7f);
  const auto mask = numbers(all, 2), known = numbers(all, 3), eps = numbers(all, 4);
  for (size_t i = 0; i < all; ++i) mask[i] = mask[i] > 0 ? 1.0f : 0.0f;
  const std::unique_ptr<uint64_t[]> seeds(new uint64_t[kSamples]{7, 8, uint64_t{1} << 63});
  const std::unique_ptr<int32_t[]> nonfinite(new int32_t[kSamples]());
  ae::RowBuffers buffers;
  buffers.samples = kSamples;
  buffers.elements = kElements;
  buffers.device = device;
  buffers.slots = slots.get();
  buffers.seeds = seeds.get();
  buffers.nonfinite = nonfinite.get();
  buffers.net_input = input.get();
  buffers.net_output = output.get();
  buffers.channels = channels;
  if (masked) {
    buffers.mask = mask.get();
    buffers.known = known.get();
    buffers.known_noise = eps.get();
  }
  if (own_noise) {
    buffers.noise = noise.get();
    buffers.noise_stride = static_cast<int64_t>(all);
  }
  rows.bind(buffers);
  rows.end_with_input();
  std::vector<float> seen;
  for (size_t r = 0; r <= rows.size(); ++r) {
    rows.run(r, {});
    const size_t count = all * static_cast<size_t>(r < rows.size() ? rows.halves(r) : 1);
    seen.insert(seen.end(), input.get(), input.get() + count);
    for (size_t i = 0; i < count; ++i) output[i] = std::tanh(input[i] + 0.3f * input[(i + 1) % count]);
  }
  seen.insert(seen.end(), slots.get(), slots.get() + 2 * all);
  for (int64_t i = 0; i < kSamples; ++i) seen.push_back(static_cast<float>(nonfinite[static_cast<size_t>(i)]));
  return seen;
}

}  // namespace

std::string compare_rows() {
  for (const int variant : {0, 1, 2, 3, 4, 5, 6, 7}) {
    const bool masked = variant & 1, own_noise = variant & 2;
    const int32_t channels = variant & 4 ? kChannels : 0;
    const int before = emulation::machine().launches;
    const auto cpu = run({ae::Device::kCpu, 0}, masked, own_noise, channels);
    const int between = emulation::machine().launches;
    const auto cuda = run({ae::Device::kCuda, 0}, masked, own_noise, channels);
    const int launches = emulation::machine().launches - between;
    if (between != before || launches != 4) return "three rows launched " + std::to_string(launches) + " kernels instead of 4";
    for (size_t i = 0; i < cpu.size(); ++i)
      if (!(std::fabs(cpu[i] - cuda[i]) <= 1e-5f * std::fmax(1.0f, std::fabs(cpu[i]))))
        return "variant " + std::to_string(variant) + ": number " + std::to_string(i) + " is " + std::to_string(cpu[i]) +
               " on the CPU and " + std::to_string(cuda[i]) + " in CUDA";
  }
  return "";
}
