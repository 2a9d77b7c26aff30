// What follows from an op's fields(): its signature as text, and its parameters from generic arguments, checked.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>

#include "core/tensor.hpp"

namespace ae {

enum class Access : uint8_t { kIn, kOut, kInout, kHost };  // kHost: read, and in host memory whatever the device

using Dims = std::initializer_list<const char*>;  // a symbol such as "N", or a symbol and a number: "S+1"

// A generic argument, as a binding gets it.
struct Argument {
  enum Kind : uint8_t { kNone, kTensor, kInteger, kReal };
  Kind kind = kNone;
  Tensor tensor;
  int64_t integer = 0;
  double real = 0.0;
  const char* problem = nullptr;  // not null: why it cannot be used, to follow the parameter's name
};

// What both visitors share: the kinds of field an op can have. Derived::tensor(name, dtype, access, optional, dims) → void*.
template <class Derived>
class FieldVisitor {
 public:
  template <class T>
  void in(const char* name, const T*& field, Dims dims) {
    field = input<T>(name, Access::kIn, false, dims);
  }
  template <class T>
  void out(const char* name, T*& field, Dims dims) {
    field = output<T>(name, Access::kOut, false, dims);
  }
  template <class T>
  void inout(const char* name, T*& field, Dims dims) {
    field = output<T>(name, Access::kInout, false, dims);
  }
  template <class T>
  void optional_in(const char* name, const T*& field, Dims dims) {
    field = input<T>(name, Access::kIn, true, dims);
  }
  template <class T>
  void optional_out(const char* name, T*& field, Dims dims) {
    field = output<T>(name, Access::kOut, true, dims);
  }
  template <class T>
  void optional_inout(const char* name, T*& field, Dims dims) {
    field = output<T>(name, Access::kInout, true, dims);
  }
  // In any floating dtype: a network's own.
  void optional_in(const char* name, const void*& field, DType& dtype, Dims dims) {
    field = self().tensor(name, DType::kFloating, Access::kIn, true, dims, &dtype);
  }
  void optional_out(const char* name, void*& field, DType& dtype, Dims dims) {
    field = self().tensor(name, DType::kFloating, Access::kOut, true, dims, &dtype);
  }
  template <class T>
  void optional_host(const char* name, const T*& field, Dims dims) {
    field = input<T>(name, Access::kHost, true, dims);
  }

 private:
  template <class T>
  const T* input(const char* name, Access access, bool optional, Dims dims) {
    return static_cast<const T*>(self().tensor(name, DTypeOf<T>::value, access, optional, dims));
  }
  template <class T>
  T* output(const char* name, Access access, bool optional, Dims dims) {
    return static_cast<T*>(self().tensor(name, DTypeOf<T>::value, access, optional, dims));
  }
  Derived& self() { return static_cast<Derived&>(*this); }
};

// "randn(seeds: in uint64[N], draw: uint32, out: out float32[N, E])", as aigc_edge.ops derives it from the Python reference.
class SignatureWriter : public FieldVisitor<SignatureWriter> {
 public:
  explicit SignatureWriter(const char* op) : text_(std::string(op) + "(") {}

  void* tensor(const char* name, DType dtype, Access access, bool optional, Dims dims, DType* found = nullptr);
  template <class T>
  void scalar(const char* name, T&) {
    add(name, name_of(DTypeOf<T>::value));
  }
  template <class T>
  void size(const char*, T&) {}
  std::string text() const { return text_ + ")"; }

 private:
  void add(const char* name, const std::string& type);

  std::string text_;
  bool first_ = true;
};

// Fills an op's parameters from arguments in the order of its fields. Throws Error with the op's and the argument's name.
class Binder : public FieldVisitor<Binder> {
 public:
  Binder(const char* op, const Argument* arguments, size_t count) : op_(op), arguments_(arguments), count_(count) {}

  void* tensor(const char* name, DType dtype, Access access, bool optional, Dims dims, DType* found = nullptr);
  template <class T>
  void scalar(const char* name, T& field) {
    if constexpr (std::is_floating_point_v<T>) {
      field = static_cast<T>(real(name));
    } else {
      static_assert(sizeof(T) <= 4, "scalars are int32, uint32 or float64");
      constexpr int64_t low = std::is_signed_v<T> ? -(int64_t{1} << 31) : 0;
      constexpr int64_t high = std::is_signed_v<T> ? (int64_t{1} << 31) - 1 : (int64_t{1} << 32) - 1;
      field = static_cast<T>(integer(name, low, high));
    }
  }
  void size(const char* symbol, int64_t& field) {
    if (const Symbol* known = find(symbol)) field = known->value;
  }
  // Call last: throws when there were too many arguments, with the text that `signature` gives; returns where the tensors are.
  Device finish(std::string (*signature)(const char* op)) const;

 private:
  struct Symbol {
    std::string_view name;
    int64_t value;
    const char* from;  // the argument that fixed it
  };

  static constexpr int kMaxSymbols = 8;

  const Symbol* find(std::string_view name) const;
  const Argument& next(const char* name);
  double real(const char* name);
  int64_t integer(const char* name, int64_t low, int64_t high);
  void match(const char* name, const Tensor& tensor, Dims dims);
  [[noreturn]] void fail(const char* name, const std::string& problem) const;

  const char* op_;
  const Argument* arguments_;
  size_t count_, used_ = 0;
  Symbol symbols_[kMaxSymbols];
  int symbol_count_ = 0;
  Device device_;
  const char* device_from_ = nullptr;
};

}  // namespace ae
