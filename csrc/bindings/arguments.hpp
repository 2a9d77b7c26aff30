// Python objects as the arguments of an op.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

#include "bindings/dlpack.hpp"
#include "ops/ops.hpp"

namespace ae {

// Tensors are exchanged by DLPack without a copy: through the C table where their type offers one (torch), else by __dlpack__.
// They are valid as long as this object and the Python objects.
class PythonArguments final : public ops::Arguments {
 public:
  // As in a METH_FASTCALL | METH_KEYWORDS function: positional values, then one for each name in the tuple `keywords` (or null).
  PythonArguments(const char* op, PyObject* const* values, Py_ssize_t positional, PyObject* keywords)
      : Arguments(op), values_(values), positional_(positional), keywords_(keywords) {}

  // Throws Error when an argument was not asked for; call after bind.
  void check_all_used(const ops::Op& op) const;
  void* stream() const { return stream_; }  // the current stream of the framework of the first CUDA tensor

 private:
  ops::Argument next(const char* name) override;
  PyObject* find(const char* name);
  bool read_tensor(const char* name, PyObject* object, Tensor& tensor);
  Tensor view(const char* name, const dlpack::Tensor& tensor, bool read_only) const;
  [[noreturn]] void fail_with_python_error(const char* name) const;

  PyObject* const* values_;
  Py_ssize_t positional_;
  PyObject* keywords_;
  Py_ssize_t used_ = 0, keyword_ = 0;       // arguments that were asked for; where the next keyword is expected
  dlpack::Tensor storage_;                  // of the last tensor that came through the C table
  std::vector<pybind11::object> capsules_;  // from __dlpack__; not consumed, so that their destructors release the tensors
  void* stream_ = nullptr;
};

}  // namespace ae
