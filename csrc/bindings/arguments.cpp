#include "bindings/arguments.hpp"

#include <string>

#include "core/error.hpp"

namespace ae {
namespace {

struct Names {
  PyObject* exchange = PyUnicode_InternFromString("__dlpack_c_exchange_api__");
  PyObject* dlpack = PyUnicode_InternFromString("__dlpack__");
  PyObject* requires_grad = PyUnicode_InternFromString("requires_grad");
  PyObject* max_version = Py_BuildValue("(s)", "max_version");
  PyObject* version = Py_BuildValue("(ii)", 1, 0);
};

const Names& names() {
  static const Names* const kept = new Names;  // never freed: Python may be gone before us
  return *kept;
}

// Asking a type costs more than the exchange itself, so answers are kept; there are few tensor types. Guarded by the GIL.
const dlpack::Exchange* exchange_of(PyTypeObject* type) {
  struct Known {
    PyTypeObject* type;
    const dlpack::Exchange* exchange;
  };
  static Known known[8] = {};
  static int next = 0;
  for (const Known& entry : known) {
    if (entry.type == type) return entry.exchange;
  }
  const dlpack::Exchange* found = nullptr;
  if (PyObject* capsule = PyObject_GetAttr(reinterpret_cast<PyObject*>(type), names().exchange)) {
    found = static_cast<const dlpack::Exchange*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
    Py_DECREF(capsule);
  }
  PyErr_Clear();
  while (found && found->version.major != 1) found = found->previous;
  if (found && !found->tensor_from_object) found = nullptr;
  Py_INCREF(type);
  Py_XDECREF(known[next].type);
  known[next] = {type, found};
  next = (next + 1) % 8;
  return found;
}

DType dtype_of(const dlpack::Tensor& tensor) {
  if (tensor.lanes != 1) return DType::kOther;
  switch (tensor.code << 8 | tensor.bits) {
    case dlpack::kFloat << 8 | 32:
      return DType::kFloat32;
    case dlpack::kFloat << 8 | 64:
      return DType::kFloat64;
    case dlpack::kUint << 8 | 8:
      return DType::kUint8;
    case dlpack::kUint << 8 | 32:
      return DType::kUint32;
    case dlpack::kUint << 8 | 64:
      return DType::kUint64;
    case dlpack::kInt << 8 | 32:
      return DType::kInt32;
    case dlpack::kInt << 8 | 64:
      return DType::kInt64;
    case dlpack::kFloat << 8 | 16:
      return DType::kFloat16;
    case dlpack::kBfloat << 8 | 16:
      return DType::kBfloat16;
    case dlpack::kInt << 8 | 8:
      return DType::kInt8;
    case dlpack::kInt << 8 | 16:
      return DType::kInt16;
    case dlpack::kBool << 8 | 8:
      return DType::kBool;
    default:
      return DType::kOther;
  }
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

// torch hands over such tensors without a word, and a kernel that writes or reads them would silently break the gradient.
bool requires_gradient(PyObject* object) {
  PyObject* const flag = PyObject_GetAttr(object, names().requires_grad);
  if (!flag) PyErr_Clear();
  Py_XDECREF(flag);
  return flag == Py_True;
}

}  // namespace

Arguments::Arguments(PyObject* const* objects, Py_ssize_t count) {
  if (count > kMax) throw Error(kInvalidArgument, std::to_string(count) + " arguments were given, no op takes so many");
  for (; count_ < count; ++count_) add(objects[count_], arguments_[count_]);
}

Arguments::~Arguments() {
  while (capsule_count_ > 0) Py_DECREF(capsules_[--capsule_count_]);
}

void Arguments::refuse(Argument& argument, const std::string& problem) {
  if (problem_.empty()) problem_ = problem;  // the op complains about the first and stops
  argument.problem = problem_.c_str();
}

void Arguments::refuse_for_python_error(Argument& argument) {
#if PY_VERSION_HEX >= 0x030C0000
  PyObject* const value = PyErr_GetRaisedException();
#else
  PyObject *type, *value, *trace;
  PyErr_Fetch(&type, &value, &trace);
  PyErr_NormalizeException(&type, &value, &trace);
  Py_XDECREF(type);
  Py_XDECREF(trace);
#endif
  PyObject* const text = value ? PyObject_Str(value) : nullptr;
  const char* const bytes = text ? PyUnicode_AsUTF8(text) : nullptr;
  const std::string message = bytes ? bytes : "Python raised an error that cannot be printed";
  PyErr_Clear();
  Py_XDECREF(text);
  Py_XDECREF(value);
  refuse(argument, "cannot be used: " + message.substr(0, message.find('\n')));
}

void Arguments::add(PyObject* object, Argument& argument) {
  if (object == Py_None) return;
  if (PyFloat_Check(object)) {
    argument.kind = Argument::kReal;
    argument.real = PyFloat_AS_DOUBLE(object);
  } else if (PyLong_Check(object) || (!add_tensor(object, argument, storage_[count_]) && PyIndex_Check(object))) {
    argument.kind = Argument::kInteger;
    argument.integer = PyNumber_AsSsize_t(object, PyExc_OverflowError);
    if (argument.integer == -1 && PyErr_Occurred()) refuse_for_python_error(argument);
  } else if (argument.kind == Argument::kNone && !argument.problem) {  // a number of another type, such as numpy.float32
    argument.kind = Argument::kReal;
    argument.real = PyFloat_AsDouble(object);
    if (PyErr_Occurred()) {
      PyErr_Clear();
      refuse(argument, std::string("is a ") + Py_TYPE(object)->tp_name + ": a tensor (with DLPack), a number or None is needed");
    }
  }
}

// Returns whether `object` is a tensor, be it one that cannot be used.
bool Arguments::add_tensor(PyObject* object, Argument& argument, dlpack::Tensor& storage) {
  if (const dlpack::Exchange* exchange = exchange_of(Py_TYPE(object))) {
    if (requires_gradient(object)) {
      refuse(argument, "requires a gradient, and native ops compute none: pass tensor.detach()");
    } else if (exchange->tensor_from_object(object, &storage) != 0) {
      refuse_for_python_error(argument);
    } else {
      describe(storage, false, argument, exchange);
    }
    return true;
  }
  PyObject* const method = PyObject_GetAttr(object, names().dlpack);
  if (!method) {
    PyErr_Clear();
    return false;
  }
  PyObject* const values[] = {names().version};
  PyObject* capsule = PyObject_Vectorcall(method, values, 0, names().max_version);
  if (!capsule && PyErr_ExceptionMatches(PyExc_TypeError)) {  // written before DLPack 1.0
    PyErr_Clear();
    capsule = PyObject_CallNoArgs(method);
  }
  Py_DECREF(method);
  if (!capsule) {
    refuse_for_python_error(argument);
    return true;
  }
  capsules_[capsule_count_++] = capsule;  // not consumed: freeing the capsule gives the tensor back
  if (auto* versioned = static_cast<dlpack::ManagedVersioned*>(PyCapsule_GetPointer(capsule, "dltensor_versioned"))) {
    if (versioned->version.major == 1) {
      describe(versioned->tensor, versioned->flags & dlpack::kReadOnly, argument, nullptr);
    } else {
      refuse(argument, "speaks a DLPack version that is not 1.x");
    }
    return true;
  }
  PyErr_Clear();
  if (auto* managed = static_cast<dlpack::Managed*>(PyCapsule_GetPointer(capsule, "dltensor"))) {
    describe(managed->tensor, false, argument, nullptr);
  } else {
    refuse_for_python_error(argument);
  }
  return true;
}

void Arguments::describe(const dlpack::Tensor& tensor, bool read_only, Argument& argument, const dlpack::Exchange* exchange) {
  int64_t elements = 1;
  for (int i = 0; i < tensor.ndim; ++i) elements *= tensor.shape[i];
  if (!tensor.data && elements > 0) return refuse(argument, "has no memory (a fake or meta tensor): pass one that has");
  argument.kind = Argument::kTensor;
  // An empty tensor may have no address; it must still not look absent.
  static double nothing;
  argument.tensor.data = tensor.data ? static_cast<char*>(tensor.data) + tensor.byte_offset : static_cast<void*>(&nothing);
  argument.tensor.dtype = dtype_of(tensor);
  argument.tensor.device = device_of(tensor);
  argument.tensor.rank = tensor.ndim;
  argument.tensor.shape = tensor.shape;
  argument.tensor.strides = tensor.strides;
  argument.tensor.read_only = read_only;
  if (argument.tensor.device.kind == Device::kCuda && exchange && exchange->current_stream && !has_stream_) {
    if (exchange->current_stream(dlpack::kCuda, tensor.device_id, &stream_) != 0) return refuse_for_python_error(argument);
    has_stream_ = true;
  }
}

}  // namespace ae
