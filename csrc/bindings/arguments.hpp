// Python objects as the generic arguments of an op.
#pragma once

#include <Python.h>

#include <string>

#include "bindings/dlpack.hpp"
#include "core/fields.hpp"

namespace ae {

// Tensors cross by DLPack, without a copy: through the C table where their type offers one (torch), else by __dlpack__. The views
// are valid as long as this object and the Python objects. What cannot be used is marked, so that the op can say which parameter
// it is. Python's plain C API: it costs less, per call and to compile, than pybind11's.
class Arguments {
 public:
  static constexpr Py_ssize_t kMax = 40;

  Arguments(PyObject* const* objects, Py_ssize_t count);
  ~Arguments();
  Arguments(const Arguments&) = delete;
  Arguments& operator=(const Arguments&) = delete;

  const Argument* data() const { return arguments_; }
  size_t size() const { return static_cast<size_t>(count_); }
  void* stream() const { return stream_; }  // that the framework of the first CUDA tensor works on

 private:
  void add(PyObject* object, Argument& argument);
  bool add_tensor(PyObject* object, Argument& argument, dlpack::Tensor& storage);
  void refuse(Argument& argument, const std::string& problem);
  void refuse_for_python_error(Argument& argument);
  void describe(const dlpack::Tensor& tensor, bool read_only, Argument& argument, const dlpack::Exchange* exchange);

  Argument arguments_[kMax];
  dlpack::Tensor storage_[kMax];
  PyObject* capsules_[kMax];
  Py_ssize_t count_ = 0, capsule_count_ = 0;
  std::string problem_;
  void* stream_ = nullptr;
  bool has_stream_ = false;
};

}  // namespace ae
