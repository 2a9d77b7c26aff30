// aigc_edge._core.Rows: the steps of a sampling program around any network, on NumPy arrays or torch tensors.
#include "runtime/rows.hpp"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <vector>

#include "bindings/arguments.hpp"
#include "core/error.hpp"
#include "core/json.hpp"

namespace py = pybind11;

int op_threads();  // python.cpp

namespace {

using ae::ops::Size;

constexpr const char* kProgram = "the program";  // where sizes come from, in messages

// What Program.to_json returns, without the detour over text. Throws Error(kInvalidArgument) for what JSON does not have.
ae::JsonValue json_of(py::handle object, int depth = 0) {
  using Value = ae::JsonValue;
  if (object.is_none()) return {};
  if (PyBool_Check(object.ptr())) return {object.ptr() == Py_True};
  if (PyFloat_Check(object.ptr()) || PyLong_Check(object.ptr())) return {object.cast<double>()};
  if (PyUnicode_Check(object.ptr())) return {object.cast<std::string>()};
  if (depth < 64 && PyDict_Check(object.ptr())) {
    Value::Object members;
    for (const auto& [name, value] : py::reinterpret_borrow<py::dict>(object))
      members.emplace_back(name.cast<std::string>(), json_of(value, depth + 1));
    return {std::move(members)};
  }
  if (depth < 64 && (PyList_Check(object.ptr()) || PyTuple_Check(object.ptr()))) {
    Value::Array items;
    for (const py::handle item : object) items.push_back(json_of(item, depth + 1));
    return {std::move(items)};
  }
  throw ae::Error(ae::kInvalidArgument, "the program holds a " + std::string(Py_TYPE(object.ptr())->tp_name) +
                                            ", which JSON does not have: give what Program.to_json returns");
}

ae::Program parse(const py::dict& program) { return ae::parse_program(ae::JsonDocument(json_of(program), "program").root()); }

class PythonRows {
 public:
  explicit PythonRows(const py::dict& program)
      : program_(parse(program)), rows_(program_, {program_.guidance_scale, program_.guidance_rescale}) {}
  PythonRows(const PythonRows&) = delete;

  std::vector<int> halves() const {
    std::vector<int> halves;
    for (size_t r = 0; r < rows_.size(); ++r) halves.push_back(rows_.halves(r));
    return halves;
  }

  void bind(const py::object& slots, const py::object& net_input, const py::object& seeds, const py::object& nonfinite,
            const py::object& mask, const py::object& known, const py::object& known_noise, int channels) {
    PyObject* objects[] = {slots.ptr(), net_input.ptr(), seeds.ptr(),      nonfinite.ptr(),
                           mask.ptr(),  known.ptr(),     known_noise.ptr()};
    ae::PythonArguments arguments("Rows.bind", objects, std::size(objects), nullptr);
    ae::RowBuffers b;
    int64_t slot_count = program_.slots, halves = rows_.max_halves();
    Size s{"S", slot_count, kProgram}, n{"N", b.samples}, e{"E", b.elements}, k{"K", halves, kProgram};
    arguments.tensor("slots", b.slots, ae::ops::kInout, {s, n, e});
    arguments.tensor("net_input", b.net_input, b.dtype, ae::ops::kOut, {k, n, e});
    arguments.tensor("seeds", b.seeds, ae::ops::kIn, {n});
    arguments.tensor("nonfinite", b.nonfinite, ae::ops::kInout, {n});
    arguments.tensor("mask", b.mask, ae::ops::kOptionalIn, {n, e});
    arguments.tensor("known", b.known, ae::ops::kOptionalIn, {n, e});
    arguments.tensor("known_noise", b.known_noise, ae::ops::kOptionalIn, {n, e});
    b.channels = channels;
    b.device = arguments.device();
    rows_.bind(b);
    buffers_ = b;
    bound_ = {slots, net_input, seeds, nonfinite, mask, known, known_noise};
    noise_ = py::none();
  }

  py::object noise() const { return noise_; }

  void set_noise(const py::object& noise) {
    require_bound();
    PyObject* object = noise.ptr();
    ae::PythonArguments arguments("Rows", &object, 1, nullptr);
    const float* data = nullptr;
    int64_t draws = static_cast<int64_t>(program_.draws()), samples = buffers_.samples, elements = buffers_.elements;
    Size d{"D", draws, kProgram}, n{"N", samples, "slots"}, e{"E", elements, "slots"};
    arguments.tensor("noise", data, ae::ops::kOptionalIn, {d, n, e});
    if (data != nullptr) require_device("noise", arguments.device());
    rows_.set_noise(data, samples * elements);
    noise_ = noise;
  }

  void run(int64_t r, const py::object& output) {
    require_bound();
    if (r < 0 || r > static_cast<int64_t>(rows_.size()))
      throw ae::Error(ae::kInvalidArgument,
                      "step " + std::to_string(r) + " does not exist: 0 to " + std::to_string(rows_.size()) + " do");
    if (output.is_none() != (r == 0))
      throw ae::Error(ae::kInvalidArgument,
                      r == 0 ? "step 0 ends no row: leave the output out"
                             : "step " + std::to_string(r) + " needs the network's output of row " + std::to_string(r - 1));
    // Where there is no output the slots say which stream the framework works on.
    PyObject* object = r == 0 ? bound_[0].ptr() : output.ptr();
    ae::PythonArguments arguments("Rows.run", &object, 1, nullptr);
    const void* data = nullptr;
    ae::DType dtype = buffers_.dtype;
    int64_t samples = buffers_.samples, elements = buffers_.elements;
    int64_t halves = r == 0 ? program_.slots : rows_.halves(static_cast<size_t>(r - 1));
    Size g{r == 0 ? "S" : "G", halves, kProgram}, n{"N", samples, "slots"}, e{"E", elements, "slots"};
    arguments.tensor(r == 0 ? "slots" : "output", data, dtype, ae::ops::kIn, {g, n, e});
    require_device("output", arguments.device());
    ae::ops::Launch launch;
    launch.threads = op_threads();
    launch.stream = arguments.stream();
    const py::gil_scoped_release nogil;
    rows_.run(static_cast<size_t>(r), data, dtype, launch);
  }

 private:
  void require_bound() const {
    if (bound_.empty()) throw ae::Error(ae::kInvalidArgument, "these rows have no buffers: call bind first");
  }

  void require_device(const char* name, ae::Device device) const {
    if (device != buffers_.device)
      throw ae::Error(ae::kInvalidArgument, std::string(name) + " is on " + name_of(device) + " and slots on " +
                                                name_of(buffers_.device) + ": move all to one device");
  }

  const ae::Program program_;
  ae::Rows rows_;
  ae::RowBuffers buffers_;
  std::vector<py::object> bound_;  // keeps the memory of the buffers
  py::object noise_ = py::none();
};

}  // namespace

void bind_rows(py::module_& m) {
  py::class_<PythonRows>(m, "Rows", "The steps of a sampling program around any network.")
      .def(py::init<const py::dict&>(), py::arg("program"))
      .def_property_readonly("halves", &PythonRows::halves)
      .def("bind", &PythonRows::bind, py::kw_only(), py::arg("slots"), py::arg("net_input"), py::arg("seeds"),
           py::arg("nonfinite"), py::arg("mask") = py::none(), py::arg("known") = py::none(), py::arg("known_noise") = py::none(),
           py::arg("channels") = 0)
      .def_property("noise", &PythonRows::noise, &PythonRows::set_noise)
      .def("run", &PythonRows::run, py::arg("step"), py::arg("output") = py::none());
}
