#include "core/fields.hpp"

#include <cstdlib>

#include "core/error.hpp"

namespace ae {
namespace {

std::string join(Dims dims) {
  std::string text = "[";
  for (const char* dim : dims) text += (text.size() > 1 ? ", " : "") + std::string(dim);
  return text + "]";
}

}  // namespace

void SignatureWriter::add(const char* name, const std::string& type) {
  text_ += (first_ ? "" : ", ") + std::string(name) + ": " + type;
  first_ = false;
}

void* SignatureWriter::tensor(const char* name, DType dtype, Access access, bool optional, Dims dims, DType*) {
  constexpr const char* accesses[] = {"in ", "out ", "inout ", "host "};
  add(name, (optional ? "optional " : "") + std::string(accesses[static_cast<int>(access)]) + name_of(dtype) + join(dims));
  return nullptr;
}

void Binder::fail(const char* name, const std::string& problem) const {
  throw Error(kInvalidArgument, std::string(op_) + ": " + name + " " + problem);
}

const Argument& Binder::next(const char* name) {
  if (used_ == count_) fail(name, "is missing: " + std::to_string(count_) + " arguments were given");
  const Argument& argument = arguments_[used_++];
  if (argument.problem) fail(name, argument.problem);
  return argument;
}

double Binder::real(const char* name) {
  const Argument& argument = next(name);
  if (argument.kind == Argument::kReal) return argument.real;
  if (argument.kind == Argument::kInteger) return static_cast<double>(argument.integer);
  fail(name, "must be a number");
}

int64_t Binder::integer(const char* name, int64_t low, int64_t high) {
  const Argument& argument = next(name);
  if (argument.kind != Argument::kInteger) fail(name, "must be an integer");
  if (argument.integer < low || argument.integer > high) {
    fail(name,
         "is " + std::to_string(argument.integer) + ": " + std::to_string(low) + " to " + std::to_string(high) + " is allowed");
  }
  return argument.integer;
}

void* Binder::tensor(const char* name, DType dtype, Access access, bool optional, Dims dims, DType* found) {
  const Argument& argument = next(name);
  if (argument.kind == Argument::kNone && optional) return nullptr;
  const bool any = dtype == DType::kFloating;
  const auto wanted = [&] { return (any ? "float32, float16 or bfloat16 " : name_of(dtype)) + join(dims); };
  if (argument.kind != Argument::kTensor) fail(name, "must be a tensor, " + wanted() + (optional ? ", or None" : ""));
  const Tensor& tensor = argument.tensor;
  if (any ? !is_floating(tensor.dtype) : tensor.dtype != dtype)
    fail(name, std::string("is ") + name_of(tensor.dtype) + ": " + wanted() + " is needed, convert it first");
  if (found) *found = tensor.dtype;
  match(name, tensor, dims);
  if (!tensor.contiguous())
    fail(name, "is not contiguous: pass a contiguous copy (numpy.ascontiguousarray, or .contiguous() in torch)");
  const bool written = access == Access::kOut || access == Access::kInout;
  if (written && tensor.read_only) fail(name, "is read-only and would be written: pass an array that can be written");
  if (access == Access::kHost) {
    if (tensor.device.kind != Device::kCpu)
      fail(name, "is on " + name_of(tensor.device) + ": it must be in host memory, move it to the CPU");
  } else if (!device_from_) {
    device_ = tensor.device;
    device_from_ = name;
  } else if (tensor.device != device_) {
    fail(name,
         "is on " + name_of(tensor.device) + " and " + device_from_ + " on " + name_of(device_) + ": move all to one device");
  }
  return tensor.data;
}

const Binder::Symbol* Binder::find(std::string_view name) const {
  for (int i = 0; i < symbol_count_; ++i) {
    if (symbols_[i].name == name) return &symbols_[i];
  }
  return nullptr;
}

void Binder::match(const char* name, const Tensor& tensor, Dims dims) {
  if (tensor.rank != static_cast<int>(dims.size())) {
    fail(name, "has the shape " + shape_of(tensor) + ": " + join(dims) + " is needed");
  }
  int axis = 0;
  for (const std::string_view dim : dims) {
    const size_t plus = dim.find('+');
    const std::string_view symbol = dim.substr(0, plus);
    const int64_t value = tensor.shape[axis++] - (plus == std::string_view::npos ? 0 : std::atoll(dim.data() + plus + 1));
    const Symbol* known = find(symbol);
    if (!known) {
      if (symbol_count_ == kMaxSymbols) throw Error(kInternal, std::string(op_) + ": its shapes have too many symbols");
      symbols_[symbol_count_++] = {symbol, value, name};
    } else if (known->value != value) {
      fail(name, "has the shape " + shape_of(tensor) + ": " + join(dims) + " with " + std::string(symbol) + " = " +
                     std::to_string(known->value) + ", as in " + known->from + ", is needed");
    }
  }
}

Device Binder::finish(std::string (*signature)(const char* op)) const {
  if (used_ != count_) {
    throw Error(kInvalidArgument, std::string(op_) + ": " + std::to_string(count_) + " arguments were given and " +
                                      std::to_string(used_) + " are needed: " + signature(op_));
  }
  return device_;
}

}  // namespace ae
