// Python objects as the arguments of an op.
#pragma once

#include <Python.h>

#include <string>

#include "bindings/dlpack.hpp"
#include "ops/ops.hpp"

namespace ae {

// Tensors are exchanged by DLPack without a copy: through the C table where their type offers one (torch), else by __dlpack__.
// The views are valid as long as this object and the Python objects. Python's plain C API on the usual path: pybind11's costs
// more than a small op.
class PythonArguments {
 public:
  static constexpr Py_ssize_t kMax = 40;

  // `count` is at most kMax and the op's number of parameters.
  explicit PythonArguments(const ops::Op& op) : op_(op) {}
  ~PythonArguments();
  PythonArguments(const PythonArguments&) = delete;
  PythonArguments& operator=(const PythonArguments&) = delete;

  // Appends the next argument. Throws Error, with the parameter's name, for what is no tensor, number or None.
  void add(PyObject* object);

  const ops::Argument* data() const { return arguments_; }
  size_t size() const { return count_; }
  void* stream() const { return stream_; }  // the current stream of the framework of the first CUDA tensor

 private:
  bool add_tensor(PyObject* object);
  void add_view(const dlpack::Tensor& tensor, bool read_only, const dlpack::Exchange* exchange);
  [[noreturn]] void fail(const std::string& problem) const;
  [[noreturn]] void fail_with_python_error() const;

  const ops::Op& op_;
  ops::Argument arguments_[kMax];
  dlpack::Tensor storage_[kMax];
  PyObject* capsules_[kMax];
  size_t count_ = 0, capsule_count_ = 0;
  void* stream_ = nullptr;
  bool has_stream_ = false;
};

}  // namespace ae
