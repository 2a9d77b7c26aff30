#include "ops/arguments.hpp"

#include <limits>

#include "core/error.hpp"

namespace ae::ops {
namespace {

std::string text(Dims dims) {
  std::string text = "[";
  for (const Dim& dim : dims) {
    text += (text.size() > 1 ? ", " : "") + std::string(dim.size.symbol) + (dim.extra ? "+" + std::to_string(dim.extra) : "");
  }
  return text + "]";
}

}  // namespace

void Arguments::fail(const char* name, const std::string& problem) const {
  throw Error(kInvalidArgument, std::string(op_) + ": " + name + " " + problem);
}

void Arguments::scalar(const char* name, double& field) {
  if (parameters_) return parameters_->push_back({name, name_of(DType::kFloat64), false, field});
  const Argument value = next(name);
  if (value.kind == Argument::kAbsent) return;
  if (value.kind != Argument::kReal && value.kind != Argument::kInteger) fail(name, "must be a number");
  field = value.kind == Argument::kReal ? value.real : static_cast<double>(value.integer);
}

template <class T>
void Arguments::scalar(const char* name, T& field, bool required) {
  if (parameters_) return parameters_->push_back({name, name_of(dtype_of<T>()), required, static_cast<double>(field)});
  const Argument value = next(name);
  if (value.kind == Argument::kAbsent && required) fail(name, "is missing: this argument has no default");
  if (value.kind == Argument::kAbsent) return;
  if (value.kind != Argument::kInteger) fail(name, "must be an integer");
  constexpr int64_t low = std::numeric_limits<T>::min(), high = std::numeric_limits<T>::max();
  if (value.integer < low || value.integer > high) {
    fail(name,
         "is " + std::to_string(value.integer) + ": " + std::to_string(low) + " to " + std::to_string(high) + " is allowed");
  }
  field = static_cast<T>(value.integer);
}

template void Arguments::scalar(const char*, int32_t&, bool);
template void Arguments::scalar(const char*, uint32_t&, bool);

void* Arguments::data(const char* name, DType dtype, const Access& access, Dims dims, DType* actual) {
  if (parameters_) {
    parameters_->push_back({name, std::string(access.name) + " " + name_of(dtype) + text(dims), !access.optional});
    return nullptr;
  }
  const Argument value = next(name);
  if (access.optional && (value.kind == Argument::kAbsent || value.kind == Argument::kNone)) return nullptr;
  if (value.kind == Argument::kAbsent) fail(name, "is missing: this argument has no default");
  const bool any_float = dtype == DType::kFloating;
  const auto expected = [&] { return (any_float ? "float32, float16 or bfloat16 " : name_of(dtype)) + text(dims); };
  if (value.kind != Argument::kTensor) fail(name, "must be a tensor, " + expected() + (access.optional ? ", or None" : ""));
  const Tensor& tensor = value.tensor;
  if (any_float ? !is_floating(tensor.dtype) : tensor.dtype != dtype)
    fail(name, std::string("is ") + name_of(tensor.dtype) + ": " + expected() + " is needed, convert it first");
  if (actual) *actual = tensor.dtype;
  match(name, tensor, dims);
  if (!tensor.contiguous())
    fail(name, "is not contiguous: pass a contiguous copy (numpy.ascontiguousarray, or .contiguous() in torch)");
  if (access.written && tensor.read_only) fail(name, "is read-only and would be written: pass an array that can be written");
  if (access.host) {
    if (tensor.device.kind != Device::kCpu)
      fail(name, "is on " + name_of(tensor.device) + ": it must be in host memory, move it to the CPU");
  } else if (!device_source_) {
    device_ = tensor.device;
    device_source_ = name;
  } else if (tensor.device != device_) {
    fail(name,
         "is on " + name_of(tensor.device) + " and " + device_source_ + " on " + name_of(device_) + ": move all to one device");
  }
  return tensor.data;
}

void Arguments::match(const char* name, const Tensor& tensor, Dims dims) {
  const auto shape = [&] { return "has the shape " + shape_text(tensor.shape, static_cast<size_t>(tensor.rank)); };
  if (tensor.rank != static_cast<int>(dims.size())) fail(name, shape() + ": " + text(dims) + " is needed");
  const int64_t* length = tensor.shape;
  for (const Dim& dim : dims) {
    Size& size = dim.size;
    const int64_t value = *length++ - dim.extra;
    if (!size.source) {
      size.value = value;
      size.source = name;
    } else if (size.value != value) {
      fail(name, shape() + ": " + text(dims) + " with " + size.symbol + " = " + std::to_string(size.value) + ", as in " +
                     size.source + ", is needed");
    }
  }
}

}  // namespace ae::ops
