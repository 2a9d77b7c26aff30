// What an op's bind() reads its parameters from: the arguments of one call, checked for dtype, shape, device and layout.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "core/tensor.hpp"

namespace ae::ops {

// An argument of any type, as a language binding passes it.
struct Argument {
  enum Kind : uint8_t { kAbsent, kNone, kTensor, kInteger, kReal };
  Kind kind = kAbsent;
  Tensor tensor;
  int64_t integer = 0;
  double real = 0.0;
};

// A parameter as the Python reference declares it: "slots", "inout float32[S, N, E]". The default is that of a scalar.
struct Parameter {
  std::string name, type;
  bool required;
  std::optional<double> default_value = std::nullopt;
};

// A named dimension: the first tensor that has it sets `value`, a field of the parameters; all others must agree.
struct Size {
  const char* symbol;
  int64_t& value;
  const char* source = nullptr;  // the parameter that set it
};

struct Dim {
  Dim(Size& size, int64_t extra = 0) : size(size), extra(extra) {}
  Size& size;
  int64_t extra;
};
inline Dim operator+(Size& size, int64_t extra) { return {size, extra}; }
using Dims = std::initializer_list<Dim>;

struct Access {
  const char* name;
  bool written = false, optional = false, host = false;  // host: in host memory even when the op runs on a GPU
};
constexpr Access kIn{"in"}, kOut{"out", true}, kInout{"inout", true};
constexpr Access kOptionalIn{"optional in", false, true}, kOptionalOut{"optional out", true, true};
constexpr Access kOptionalInout{"optional inout", true, true}, kOptionalHost{"optional host", false, true, true};

// bind() names the parameters in the order of the Python reference. Every function throws Error, with the op's and the
// parameter's name, for an argument that does not fit. An absent optional tensor leaves null.
class Arguments {
 public:
  // Reads nothing, and appends each parameter that is asked for to `parameters`.
  explicit Arguments(std::vector<Parameter>* parameters) : parameters_(parameters) {}
  virtual ~Arguments() = default;

  template <class T>
  void tensor(const char* name, T*& field, const Access& access, Dims dims) {
    constexpr DType dtype = dtype_of<std::remove_const_t<T>>();
    static_assert(dtype != DType::kOther, "ops do not accept this type");
    field = static_cast<T*>(data(name, dtype, access, dims));
  }
  // Of float32, float16 or bfloat16; `Void` is void or const void.
  template <class Void>
  void tensor(const char* name, Void*& field, DType& dtype, const Access& access, Dims dims) {
    field = data(name, DType::kFloating, access, dims, &dtype);
  }
  void scalar(const char* name, double& field);
  template <class T>
  void scalar(const char* name, T& field, bool required = false);  // int32_t or uint32_t

  Device device() const { return device_; }  // of the tensors that were read

 protected:
  explicit Arguments(const char* op) : op_(op) {}
  // The argument for the parameter `name`, which is the next one; its tensor's shape and strides are valid until the next call.
  virtual Argument next(const char* /*name*/) { return {}; }
  [[noreturn]] void fail(const char* name, const std::string& problem) const;

 private:
  void* data(const char* name, DType dtype, const Access& access, Dims dims, DType* actual = nullptr);
  void match(const char* name, const Tensor& tensor, Dims dims);

  const char* op_ = "";
  std::vector<Parameter>* parameters_ = nullptr;
  Device device_;
  const char* device_source_ = nullptr;  // the parameter that `device_` is of
};

}  // namespace ae::ops
