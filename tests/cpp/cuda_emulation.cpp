// Runs the CUDA kernels on the CPU, under AddressSanitizer, and compares them with the CPU kernels.
//
//   cuda_emulation CASES      ops with arguments from a file (test_cuda_emulation.py writes it); one line an op on success
//   cuda_emulation --rows     a whole program's rows (emulated_rows.cpp)
//   cuda_emulation --self     the emulation's own barriers, shuffles and shared memory
//   cuda_emulation --planted  writes one element too far, to prove that the sanitizer sees it
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "core/cuda.cuh"
#include "core/error.hpp"
#include "core/half.hpp"
#include "emulated_rows.hpp"
#include "ops/ops.hpp"

namespace {

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}

template <class T>
T read(std::istream& in) {
  T value;
  in.read(reinterpret_cast<char*>(&value), sizeof value);
  if (!in) fail("the file of cases ends too early");
  return value;
}

// One argument with memory of exactly its size, so that the sanitizer knows the bounds.
struct Value {
  ae::ops::Argument argument;
  std::vector<int64_t> shape;
  std::unique_ptr<char[]> bytes;
  size_t count = 0;  // bytes
  bool host = false;

  Value copy(ae::Device device) const {
    Value other;
    other.argument = argument;
    other.shape = shape;
    other.count = count;
    if (argument.kind == ae::ops::Argument::kTensor) {
      other.bytes.reset(new char[count]);
      std::memcpy(other.bytes.get(), bytes.get(), count);
      other.argument.tensor.data = other.bytes.get();
      other.argument.tensor.shape = other.shape.data();
      if (!host) other.argument.tensor.device = device;
    }
    return other;
  }
};

size_t size_of(ae::DType dtype) {
  constexpr size_t sizes[] = {4, 8, 1, 4, 8, 4, 8, 2};
  return sizes[static_cast<int>(dtype)];
}

Value read_value(std::istream& in) {
  Value value;
  value.argument.kind = static_cast<ae::ops::Argument::Kind>(read<uint8_t>(in));
  if (value.argument.kind == ae::ops::Argument::kInteger) value.argument.integer = read<int64_t>(in);
  if (value.argument.kind == ae::ops::Argument::kReal) value.argument.real = read<double>(in);
  if (value.argument.kind != ae::ops::Argument::kTensor) return value;
  ae::Tensor& tensor = value.argument.tensor;
  value.host = read<uint8_t>(in) != 0;
  tensor.dtype = static_cast<ae::DType>(read<uint8_t>(in));
  tensor.rank = read<uint8_t>(in);
  value.count = size_of(tensor.dtype);
  for (int i = 0; i < tensor.rank; ++i) {
    value.shape.push_back(read<int64_t>(in));
    value.count *= static_cast<size_t>(value.shape.back());
  }
  value.bytes.reset(new char[value.count]);
  in.read(value.bytes.get(), static_cast<std::streamsize>(value.count));
  return value;
}

// Whether the op has anything to do: one of its tensors, none of which is on the host, has elements in every direction.
bool has_elements(const std::vector<Value>& values) {
  for (const Value& value : values) {
    if (value.argument.kind == ae::ops::Argument::kTensor && !value.host && value.shape.size() > 1 && value.count > 0)
      return true;
  }
  return false;
}

class Arguments final : public ae::ops::Arguments {
 public:
  Arguments(const char* op, const std::vector<Value>& values) : ae::ops::Arguments(op), value_(values.begin()) {}

 private:
  ae::ops::Argument next(const char*) override { return (value_++)->argument; }

  std::vector<Value>::const_iterator value_;
};

std::vector<Value> run(const ae::ops::Op& op, const std::vector<Value>& values, ae::Device device) {
  std::vector<Value> own;
  for (const Value& value : values) own.push_back(value.copy(device));
  for (Value& value : own) value.argument.tensor.shape = value.shape.data();
  // What an op does on a GPU is one kernel, so that between two evaluations of a network there is exactly one: solver_step.
  const int before = emulation::machine().launches;
  Arguments arguments(op.name, own);
  op.bind(arguments)(1, nullptr);
  const int launches = emulation::machine().launches - before;
  const int wanted = device.kind == ae::Device::kCuda && has_elements(values) ? 1 : 0;
  if (launches != wanted)
    fail(std::string(op.name) + " launched " + std::to_string(launches) + " kernels instead of " + std::to_string(wanted));
  return own;
}

void compare(const std::string& op, const Value& cpu, const Value& cuda) {
  if (cpu.argument.kind != ae::ops::Argument::kTensor || cpu.count == 0) return;
  const ae::DType dtype = cpu.argument.tensor.dtype;
  if (!ae::is_floating(dtype)) {
    if (std::memcmp(cpu.bytes.get(), cuda.bytes.get(), cpu.count) != 0) fail(op + ": the kernels differ in an integer result");
    return;
  }
  std::vector<float> a(cpu.count / size_of(dtype)), b(a.size());
  for (size_t i = 0; i < a.size(); ++i) {
    a[i] = ae::read_as(cpu.bytes.get(), dtype, static_cast<int64_t>(i));
    b[i] = ae::read_as(cuda.bytes.get(), dtype, static_cast<int64_t>(i));
  }
  const float rounding = dtype == ae::DType::kFloat32 ? 0.0f : 0x1p-10f;  // a difference of 1e-6 may fall either way
  float largest = 0.0f;
  for (const float x : a) largest = std::isfinite(x) ? std::max(largest, std::fabs(x)) : largest;
  for (size_t i = 0; i < a.size(); ++i) {
    const bool same = a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i])) ||
                      std::fabs(a[i] - b[i]) <= 1e-6f * largest + rounding * std::fabs(a[i]);
    if (!same)
      fail(op + ": element " + std::to_string(i) + " is " + std::to_string(a[i]) + " on the CPU and " + std::to_string(b[i]) +
           " in CUDA");
  }
}

void run_cases(const char* path) {
  std::ifstream in(path, std::ios::binary);
  std::map<std::string, int> done;
  while (in.peek() != std::ifstream::traits_type::eof()) {
    std::string name(read<uint8_t>(in), ' ');
    in.read(&name[0], static_cast<std::streamsize>(name.size()));
    std::vector<Value> values;
    for (int count = read<uint8_t>(in); count > 0; --count) values.push_back(read_value(in));
    const ae::ops::Op& op = ae::ops::find(name);
    const std::vector<Value> cpu = run(op, values, {ae::Device::kCpu, 0});
    const std::vector<Value> cuda = run(op, values, {ae::Device::kCuda, 0});
    for (size_t i = 0; i < values.size(); ++i) compare(name, cpu[i], cuda[i]);
    ++done[name];
  }
  for (const auto& [name, count] : done) std::printf("%s %d\n", name.c_str(), count);
}

// Sums a block's values: shuffles within warps, shared memory and barriers between them.
void sum_kernel(const int* in, int* out, int count) {
  __shared__ int partial[32];
  const int index = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  int value = index < count ? in[index] : 0;
  for (int mask = 16; mask > 0; mask /= 2) value += __shfl_xor_sync(~0u, value, mask);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  if (threadIdx.x == 0) {
    int sum = 0;
    for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += partial[warp];
    out[blockIdx.x] = sum;
  }
  __syncthreads();
}

void self_test() {
  std::vector<int> in(1000), out(4);
  std::iota(in.begin(), in.end(), 1);
  const int* from = in.data();
  int* to = out.data();
  AE_LAUNCH(sum_kernel, 4, 256, nullptr, from, to, 1000);
  for (int block = 0; block < 4; ++block) {
    const auto first = in.begin() + 256 * block;
    if (out[block] != std::accumulate(first, std::min(first + 256, in.end()), 0)) fail("a block's sum is wrong");
  }
  if (cudaGetLastError() != cudaSuccess) fail("a good launch left an error");
  AE_LAUNCH(sum_kernel, 1, 2048, nullptr, from, to, 1000);
  if (cudaGetLastError() == cudaSuccess) fail("a block of 2048 threads was accepted");
}

void planted_kernel(float* out) { out[threadIdx.x] = 1.0f; }

void planted() {
  const std::unique_ptr<float[]> memory(new float[31]);
  float* const out = memory.get();
  AE_LAUNCH(planted_kernel, 1, 32, nullptr, out);
}

}  // namespace

int main(int count, char** arguments) {
  const std::string mode = count == 2 ? arguments[1] : "";
  if (mode.empty()) fail("one argument is needed: a file of cases, --rows, --self or --planted");
  try {
    if (mode == "--rows") {
      if (const std::string problem = compare_rows(); !problem.empty()) fail(problem);
    } else if (mode == "--self") {
      self_test();
    } else if (mode == "--planted") {
      planted();
    } else {
      run_cases(arguments[1]);
    }
  } catch (const ae::Error& error) {
    fail(error.what());
  }
  std::printf("done\n");
}
