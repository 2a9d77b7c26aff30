// Python objects as the arguments of an op.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

#include "bindings/dlpack.hpp"
#include "ops/arguments.hpp"

namespace ae {

// Tensors are exchanged by DLPack without a copy: through the C table where their type offers one (torch), else by __dlpack__.
// They are valid as long as this object and the Python objects.
class PythonArguments final : public ops::Arguments {
 public:
  PythonArguments(const char* op, PyObject* const* objects, Py_ssize_t count) : Arguments(op), objects_(objects), count_(count) {}

  bool complete() const { return used_ == count_; }  // whether all were read
  void* stream() const { return stream_; }           // the current stream of the framework of the first CUDA tensor

 private:
  ops::Argument next(const char* name) override;
  bool read_tensor(const char* name, PyObject* object, Tensor& tensor);
  Tensor view(const char* name, const dlpack::Tensor& tensor, bool read_only) const;
  [[noreturn]] void fail_with_python_error(const char* name) const;

  PyObject* const* objects_;
  Py_ssize_t count_, used_ = 0;
  dlpack::Tensor storage_;                  // of the last tensor that came through the C table
  std::vector<pybind11::object> capsules_;  // from __dlpack__; not consumed, so that their destructors release the tensors
  void* stream_ = nullptr;
  bool has_stream_ = false;
};

}  // namespace ae
