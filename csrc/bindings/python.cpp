// The Python module aigc_edge._core: ops by name, and the runtime (bind_runtime, in runtime.cpp).
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <string>

#include "bindings/arguments.hpp"
#include "core/device.hpp"
#include "core/error.hpp"
#include "core/isa.hpp"
#include "ops/ops.hpp"

namespace py = pybind11;

void bind_runtime(py::module_& module);  // runtime.cpp
int op_threads();

namespace {

constexpr const char* kOpCapsule = "aigc_edge.op";
std::atomic<int> threads{1};  // of ops called from Python; the runtime has its own

void raise(const ae::Error& error) {
  if (error.status == ae::kOutOfMemory) return PyErr_SetString(PyExc_MemoryError, error.what());
  if (error.status == ae::kInternal) return PyErr_SetString(PyExc_RuntimeError, error.what());
  const auto errors = py::reinterpret_steal<py::object>(PyImport_ImportModule("aigc_edge.errors"));
  const char* const name = error.status == ae::kBundle ? "BundleError" : "AigcEdgeError";
  if (errors) PyErr_SetString(py::getattr(errors, name, PyExc_RuntimeError).ptr(), error.what());
}

// Plain C functions, because pybind11's conversion of variadic arguments would cost more than a small op.
PyObject* run(PyObject* self, PyObject* const* values, Py_ssize_t positional, PyObject* keywords) noexcept {
  try {
    const auto& op = *static_cast<const ae::ops::Op*>(PyCapsule_GetPointer(self, kOpCapsule));
    ae::PythonArguments arguments(op.name, values, positional, keywords);
    const ae::ops::BoundOp bound = op.bind(arguments);
    arguments.check_all_used(op);
    const int used_threads = op_threads();
    {
      const py::gil_scoped_release nogil;
      bound(used_threads, arguments.stream());
    }
    Py_RETURN_NONE;
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const ae::Error& error) {
    raise(error);
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

PyMethodDef run_method = {"op", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(run)), METH_FASTCALL | METH_KEYWORDS,
                          "Runs one native op; _core.ops() has its parameters."};

py::object op(const std::string& name) {
  const ae::ops::Op& op = ae::ops::find(name);
  const auto self = py::reinterpret_steal<py::object>(PyCapsule_New(const_cast<ae::ops::Op*>(&op), kOpCapsule, nullptr));
  return py::reinterpret_steal<py::object>(PyCFunction_NewEx(&run_method, self.ptr(), nullptr));
}

py::dict ops() {
  py::dict ops;
  for (const ae::ops::Op& op : ae::ops::all()) {
    py::dict parameters;
    for (const ae::ops::Parameter& p : parameters_of(op)) {
      const py::tuple optional = py::make_tuple(p.type, p.default_value);
      parameters[p.name.c_str()] = p.required ? py::tuple(py::make_tuple(p.type)) : optional;
    }
    ops[op.name] = parameters;
  }
  return ops;
}

void set_threads(int count) {
  if (count < 1) throw ae::Error(ae::kInvalidArgument, "threads is " + std::to_string(count) + ": 1 or more is allowed");
  threads = count;
}

}  // namespace

int op_threads() { return threads.load(std::memory_order_relaxed); }

PYBIND11_MODULE(_core, module) {
  module.doc() = "Native core of aigc-edge.";
  module.attr("__version__") = AIGC_EDGE_VERSION;
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const ae::Error& error) {
      raise(error);
    }
  });
  module.def("ops", &ops, "Name of every native op → its parameters: name → (type,) or (type, default).");
  module.def("op", &op, py::arg("name"), "The native op of that name, as a function.");
  module.def("cuda_unavailable", &ae::cuda_unavailable, "Empty when CUDA kernels can run here, else why not.");
  module.def("cuda_architectures", &ae::cuda_architectures, "What the CUDA kernels were compiled for; empty without CUDA.");
  module.def("isas", &ae::available_isas, "CPU instruction sets that can be used here, best last.");
  module.def("isa", &ae::current_isa_name, "The CPU instruction set in use.");
  module.def("set_isa", &ae::set_isa, py::arg("name"), "Use another CPU instruction set.");
  module.def("threads", [] { return threads.load(); }, "The most threads that an op called from Python uses.");
  module.def("set_threads", &set_threads, py::arg("count"));
  bind_runtime(module);
}
