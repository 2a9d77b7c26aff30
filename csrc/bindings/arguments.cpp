#include "bindings/arguments.hpp"

#include <pybind11/pybind11.h>

#include "core/error.hpp"

namespace ae {
namespace {

using ops::Argument;

struct Names {
  PyObject* exchange = PyUnicode_InternFromString("__dlpack_c_exchange_api__");
  PyObject* dlpack = PyUnicode_InternFromString("__dlpack__");
  PyObject* requires_grad = PyUnicode_InternFromString("requires_grad");
  PyObject* max_version = Py_BuildValue("(s)", "max_version");
  PyObject* version = Py_BuildValue("(ii)", 1, 0);
};

const Names& names() {
  static const Names* const names = new Names;  // never freed: the interpreter may end first
  return *names;
}

// Looking up a type's attribute costs more than the exchange itself, so results are cached; there are few tensor types. Guarded
// by the GIL.
const dlpack::Exchange* exchange_of(PyTypeObject* type) {
  struct Entry {
    PyTypeObject* type;
    const dlpack::Exchange* exchange;
  };
  static Entry cache[8] = {};
  static int next = 0;
  for (const Entry& entry : cache) {
    if (entry.type == type) return entry.exchange;
  }
  const dlpack::Exchange* exchange = nullptr;
  if (PyObject* capsule = PyObject_GetAttr(reinterpret_cast<PyObject*>(type), names().exchange)) {
    exchange = static_cast<const dlpack::Exchange*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
    Py_DECREF(capsule);
  }
  PyErr_Clear();
  while (exchange && exchange->version.major != 1) exchange = exchange->previous;
  if (exchange && !exchange->tensor_from_object) exchange = nullptr;
  Py_INCREF(type);
  Py_XDECREF(cache[next].type);
  cache[next] = {type, exchange};
  next = (next + 1) % 8;
  return exchange;
}

DType dtype_of(const dlpack::Tensor& tensor) {
  constexpr struct {
    uint8_t code, bits;
    DType dtype;
  } known[] = {
      {dlpack::kFloat, 32, DType::kFloat32}, {dlpack::kFloat, 64, DType::kFloat64}, {dlpack::kFloat, 16, DType::kFloat16},
      {dlpack::kUint, 8, DType::kUint8},     {dlpack::kUint, 32, DType::kUint32},   {dlpack::kUint, 64, DType::kUint64},
      {dlpack::kInt, 8, DType::kInt8},       {dlpack::kInt, 16, DType::kInt16},     {dlpack::kInt, 32, DType::kInt32},
      {dlpack::kInt, 64, DType::kInt64},     {dlpack::kBool, 8, DType::kBool},      {dlpack::kBfloat, 16, DType::kBfloat16}};
  for (const auto& entry : known) {
    if (tensor.code == entry.code && tensor.bits == entry.bits && tensor.lanes == 1) return entry.dtype;
  }
  return DType::kOther;
}

Device device_of(const dlpack::Tensor& tensor) {
  switch (tensor.device_type) {
    case dlpack::kCpu:
    case dlpack::kCudaHost:
      return {Device::kCpu, 0};
    case dlpack::kCuda:
    case dlpack::kCudaManaged:
      return {Device::kCuda, tensor.device_id};
    default:
      return {Device::kOther, tensor.device_id};
  }
}

// torch exports such tensors through its C table, and a kernel that reads or writes them would silently break the gradient.
bool requires_gradient(PyObject* object) {
  PyObject* const flag = PyObject_GetAttr(object, names().requires_grad);
  if (!flag) PyErr_Clear();
  Py_XDECREF(flag);
  return flag == Py_True;
}

}  // namespace

PythonArguments::~PythonArguments() {
  while (capsule_count_ > 0) Py_DECREF(capsules_[--capsule_count_]);
}

void PythonArguments::fail(const std::string& problem) const {
  throw Error(kInvalidArgument, std::string(op_.name) + ": " + op_.parameters()[count_].name + " " + problem);
}

void PythonArguments::fail_with_python_error() const {
  const pybind11::error_already_set error;
  const std::string message = pybind11::str(error.value());
  fail("cannot be used: " + message.substr(0, message.find('\n')));
}

void PythonArguments::add(PyObject* object) {
  Argument& argument = arguments_[count_];
  if (object == Py_None) {
    // kNone, as it is
  } else if (PyFloat_Check(object)) {
    argument.kind = Argument::kReal;
    argument.real = PyFloat_AS_DOUBLE(object);
  } else if (PyLong_Check(object) || (!add_tensor(object) && PyIndex_Check(object))) {
    argument.kind = Argument::kInteger;
    argument.integer = PyNumber_AsSsize_t(object, PyExc_OverflowError);
    if (argument.integer == -1 && PyErr_Occurred()) fail_with_python_error();
  } else if (argument.kind != Argument::kTensor) {  // perhaps a number of another type, such as numpy.float32
    argument.kind = Argument::kReal;
    argument.real = PyFloat_AsDouble(object);
    if (PyErr_Occurred()) {
      PyErr_Clear();
      fail(std::string("is a ") + Py_TYPE(object)->tp_name + ": a tensor (with DLPack), a number or None is needed");
    }
  }
  ++count_;
}

// Returns false when `object` is not a tensor.
bool PythonArguments::add_tensor(PyObject* object) {
  if (const dlpack::Exchange* exchange = exchange_of(Py_TYPE(object))) {
    if (requires_gradient(object)) fail("requires a gradient, and native ops compute none: pass tensor.detach()");
    if (exchange->tensor_from_object(object, &storage_[count_]) != 0) fail_with_python_error();
    add_view(storage_[count_], false, exchange);
    return true;
  }
  PyObject* const method = PyObject_GetAttr(object, names().dlpack);
  if (!method) {
    PyErr_Clear();
    return false;
  }
  PyObject* const values[] = {names().version};
  PyObject* capsule = PyObject_Vectorcall(method, values, 0, names().max_version);
  if (!capsule && PyErr_ExceptionMatches(PyExc_TypeError)) {  // an exporter older than DLPack 1.0
    PyErr_Clear();
    capsule = PyObject_CallNoArgs(method);
  }
  Py_DECREF(method);
  if (!capsule) fail_with_python_error();
  capsules_[capsule_count_++] = capsule;  // not consumed: the capsule's destructor releases the tensor
  if (auto* versioned = static_cast<dlpack::ManagedVersioned*>(PyCapsule_GetPointer(capsule, "dltensor_versioned"))) {
    if (versioned->version.major != 1) fail("uses a DLPack version that is not 1.x");
    add_view(versioned->tensor, versioned->flags & dlpack::kReadOnly, nullptr);
    return true;
  }
  PyErr_Clear();
  auto* const managed = static_cast<dlpack::Managed*>(PyCapsule_GetPointer(capsule, "dltensor"));
  if (!managed) fail_with_python_error();
  add_view(managed->tensor, false, nullptr);
  return true;
}

void PythonArguments::add_view(const dlpack::Tensor& tensor, bool read_only, const dlpack::Exchange* exchange) {
  int64_t elements = 1;
  for (int i = 0; i < tensor.ndim; ++i) elements *= tensor.shape[i];
  if (!tensor.data && elements > 0) fail("has no memory (a fake or meta tensor): pass one that has");
  // An empty tensor may have a null address, which must still not look like an absent one.
  static double nothing;
  void* const data = tensor.data ? static_cast<char*>(tensor.data) + tensor.byte_offset : static_cast<void*>(&nothing);
  Argument& argument = arguments_[count_];
  argument.kind = Argument::kTensor;
  argument.tensor = {data, dtype_of(tensor), device_of(tensor), tensor.ndim, tensor.shape, tensor.strides, read_only};
  if (argument.tensor.device.kind == Device::kCuda && exchange && exchange->current_stream && !has_stream_) {
    if (exchange->current_stream(dlpack::kCuda, tensor.device_id, &stream_) != 0) fail_with_python_error();
    has_stream_ = true;
  }
}

}  // namespace ae
