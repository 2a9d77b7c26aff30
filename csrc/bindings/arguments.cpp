#include "bindings/arguments.hpp"

#include <unordered_map>

#include "core/error.hpp"

namespace ae {
namespace {

namespace py = pybind11;
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

// Looking up a type's attribute costs more than the exchange itself, so results are cached; there are few types. Guarded by the
// GIL.
const dlpack::Exchange* exchange_of(PyTypeObject* type) {
  static auto* const cache = new std::unordered_map<PyTypeObject*, const dlpack::Exchange*>;
  const auto [entry, added] = cache->try_emplace(type, nullptr);
  const dlpack::Exchange*& exchange = entry->second;
  if (!added) return exchange;
  Py_INCREF(type);
  const py::object capsule = py::getattr(reinterpret_cast<PyObject*>(type), names().exchange, py::none());
  if (PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api"))
    exchange = static_cast<const dlpack::Exchange*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  while (exchange && exchange->version.major != 1) exchange = exchange->previous;
  if (exchange && !exchange->tensor_from_object) exchange = nullptr;
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

}  // namespace

void PythonArguments::fail_with_python_error(const char* name) const {
  const py::error_already_set error;
  const std::string message = py::str(error.value());
  fail(name, "cannot be used: " + message.substr(0, message.find('\n')));
}

void PythonArguments::check_all_used(const ops::Op& op) const {
  const Py_ssize_t count = positional_ + (keywords_ ? PyTuple_GET_SIZE(keywords_) : 0);
  if (used_ == count) return;
  std::string names;
  for (const ops::Parameter& parameter : parameters_of(op)) names += (names.empty() ? "" : ", ") + parameter.name;
  throw Error(kInvalidArgument, op.name + (": " + std::to_string(count)) + " arguments were given and only " +
                                    std::to_string(used_) + " can be used: the parameters are " + names);
}

// The value for a parameter: the next positional one, or that of the keyword; null where there is none.
PyObject* PythonArguments::find(const char* name) {
  if (used_ < positional_) return values_[used_++];
  const Py_ssize_t count = keywords_ ? PyTuple_GET_SIZE(keywords_) : 0;
  if (used_ == positional_ + count) return nullptr;
  for (Py_ssize_t i = 0; i < count; ++i) {  // usually in the order of the parameters
    const Py_ssize_t index = (keyword_ + i) % count;
    if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(keywords_, index), name) != 0) continue;
    keyword_ = index + 1;
    ++used_;
    return values_[positional_ + index];
  }
  return nullptr;
}

Argument PythonArguments::next(const char* name) {
  PyObject* const object = find(name);
  Argument argument;
  if (!object) return argument;
  if (object == Py_None) {
    argument.kind = Argument::kNone;
  } else if (PyFloat_Check(object)) {
    argument.kind = Argument::kReal;
    argument.real = PyFloat_AS_DOUBLE(object);
  } else if (!PyLong_Check(object) && read_tensor(name, object, argument.tensor)) {
    argument.kind = Argument::kTensor;
  } else if (PyIndex_Check(object)) {
    argument.kind = Argument::kInteger;
    argument.integer = PyNumber_AsSsize_t(object, PyExc_OverflowError);
    if (argument.integer == -1 && PyErr_Occurred()) fail_with_python_error(name);
  } else {  // perhaps a number of another type, such as numpy.float32
    argument.kind = Argument::kReal;
    argument.real = PyFloat_AsDouble(object);
    if (PyErr_Occurred()) {
      PyErr_Clear();
      fail(name, std::string("is a ") + Py_TYPE(object)->tp_name + ": a tensor (with DLPack), a number or None is needed");
    }
  }
  return argument;
}

// Returns false when `object` is not a tensor.
bool PythonArguments::read_tensor(const char* name, PyObject* object, Tensor& tensor) {
  if (const dlpack::Exchange* exchange = exchange_of(Py_TYPE(object))) {
    // torch exports such tensors here, and a kernel that reads or writes them would silently break the gradient.
    if (py::getattr(object, names().requires_grad, Py_None).ptr() == Py_True)
      fail(name, "requires a gradient, and native ops compute none: pass tensor.detach()");
    if (exchange->tensor_from_object(object, &storage_) != 0) fail_with_python_error(name);
    tensor = view(name, storage_, false);
    if (tensor.device.kind == Device::kCuda && exchange->current_stream && !stream_ &&
        exchange->current_stream(dlpack::kCuda, storage_.device_id, &stream_) != 0)
      fail_with_python_error(name);
    return true;
  }
  const py::object method = py::getattr(object, names().dlpack, py::handle());
  if (!method) return false;
  PyObject* const values[] = {names().version};
  PyObject* capsule = PyObject_Vectorcall(method.ptr(), values, 0, names().max_version);
  if (!capsule && PyErr_ExceptionMatches(PyExc_TypeError)) {  // an exporter older than DLPack 1.0
    PyErr_Clear();
    capsule = PyObject_CallNoArgs(method.ptr());
  }
  if (!capsule) fail_with_python_error(name);
  if (capsules_.empty()) capsules_.reserve(8);
  capsules_.push_back(py::reinterpret_steal<py::object>(capsule));
  if (PyCapsule_IsValid(capsule, "dltensor_versioned")) {
    const auto* managed = static_cast<const dlpack::ManagedVersioned*>(PyCapsule_GetPointer(capsule, "dltensor_versioned"));
    if (managed->version.major != 1) fail(name, "uses a DLPack version that is not 1.x");
    tensor = view(name, managed->tensor, managed->flags & dlpack::kReadOnly);
  } else {  // a DLManagedTensor, which begins with its DLTensor
    const auto* plain = static_cast<const dlpack::Tensor*>(PyCapsule_GetPointer(capsule, "dltensor"));
    if (!plain) fail_with_python_error(name);
    tensor = view(name, *plain, false);
  }
  return true;
}

Tensor PythonArguments::view(const char* name, const dlpack::Tensor& tensor, bool read_only) const {
  int64_t elements = 1;
  for (int i = 0; i < tensor.ndim; ++i) elements *= tensor.shape[i];
  if (!tensor.data && elements > 0) fail(name, "has no memory (a fake or meta tensor): pass one that has");
  // An empty tensor may have a null address, which must still not look like an absent one.
  static double nothing;
  void* const data = tensor.data ? static_cast<char*>(tensor.data) + tensor.byte_offset : static_cast<void*>(&nothing);
  return {data, dtype_of(tensor), device_of(tensor), tensor.ndim, tensor.shape, tensor.strides, read_only};
}

}  // namespace ae
