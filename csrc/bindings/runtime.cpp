// The C API for Python: aigc_edge._core.Handle is one ae_handle, its engine a Python callable.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "aigc_edge/aigc_edge.h"
#include "core/error.hpp"

namespace py = pybind11;

void bind_rows(py::module_& module);  // rows.cpp

namespace {

// Carries a Python exception (an engine's own, or KeyboardInterrupt) across the C API, to be raised again as it was.
struct PythonEngine {
  py::object bind;                       // bind(component, inputs: dict, outputs: dict) -> callable
  std::map<uint64_t, py::object> bound;  // binding → what `bind` returned
  std::optional<py::error_already_set> raised;
};

py::array view(const ae_tensor& tensor) {
  const char* format = tensor.dtype == AE_FLOAT32   ? "float32"
                       : tensor.dtype == AE_INT64   ? "int64"
                       : tensor.dtype == AE_FLOAT16 ? "float16"
                                                    : "uint8";
  const std::vector<py::ssize_t> shape(tensor.shape, tensor.shape + tensor.rank);
  // A base object makes it a view; the runtime keeps the buffer as long as the binding.
  return py::array(py::dtype(format), shape, tensor.data, py::capsule(tensor.data, [](void*) {}));
}

py::dict views(const ae_tensor* const* tensors, size_t count) {
  py::dict out;
  for (size_t i = 0; i < count; ++i) out[tensors[i]->name] = view(*tensors[i]);
  return out;
}

ae_status evaluate(void* user, const ae_evaluation* evaluation, char* message, size_t capacity) {
  auto& engine = *static_cast<PythonEngine*>(user);
  const py::gil_scoped_acquire gil;
  try {
    auto found = engine.bound.find(evaluation->binding);
    if (found == engine.bound.end()) {
      py::object call = engine.bind(evaluation->component, views(evaluation->inputs, evaluation->num_inputs),
                                    views(evaluation->outputs, evaluation->num_outputs));
      found = engine.bound.emplace(evaluation->binding, std::move(call)).first;
    }
    found->second(evaluation->row, evaluation->num_rows);
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();  // Ctrl-C between two rows
    return AE_OK;
  } catch (py::error_already_set& error) {
    engine.raised.emplace(std::move(error));
    std::strncpy(message, "the engine raised a Python exception", capacity - 1);
    return AE_ENGINE;
  }
}

void release(void* user, uint64_t binding) {
  const py::gil_scoped_acquire gil;
  static_cast<PythonEngine*>(user)->bound.erase(binding);
}

template <class T>
using Given = std::optional<py::array_t<T, py::array::c_style | py::array::forcecast>>;

template <class T>
const T* pointer(const Given<T>& array, size_t count, const char* name) {
  if (!array) return nullptr;
  if (static_cast<size_t>(array->size()) != count)
    throw ae::Error(ae::kInvalidArgument, std::string(name) + " holds " + std::to_string(array->size()) +
                                              " values, it must hold " + std::to_string(count));
  return array->data();
}

// Conditions by name as the C API takes them; the arrays live in here.
class Tensors {
 public:
  explicit Tensors(const py::dict& given) {
    arrays_.reserve(given.size());
    tensors_.reserve(given.size());
    for (const auto& [name, value] : given) {
      names_.push_back(name.cast<std::string>());
      arrays_.push_back(value.cast<py::array_t<float, py::array::c_style | py::array::forcecast>>());
      const auto& array = arrays_.back();
      shapes_.emplace_back(array.shape(), array.shape() + array.ndim());
      tensors_.push_back({sizeof(ae_tensor), names_.back().c_str(), AE_FLOAT32, static_cast<int32_t>(array.ndim()),
                          shapes_.back().data(), const_cast<float*>(array.data())});
      pointers_.push_back(&tensors_.back());
    }
  }
  const ae_tensor* const* data() const { return pointers_.data(); }
  size_t size() const { return pointers_.size(); }

 private:
  std::deque<std::string> names_;
  std::deque<std::vector<int64_t>> shapes_;
  std::vector<py::array_t<float, py::array::c_style | py::array::forcecast>> arrays_;
  std::vector<ae_tensor> tensors_;
  std::vector<const ae_tensor*> pointers_;
};

class Handle {
 public:
  Handle(const std::string& path, py::object bind, const std::string& format, int threads, int max_batch, ae_verify verify,
         const std::optional<std::array<int32_t, 2>>& size) {
    engine_.bind = std::move(bind);
    ae_engine engine = {};
    engine.size = sizeof engine;
    engine.user = &engine_;
    engine.evaluate = evaluate;
    engine.release = release;
    ae_open_options options = {};
    options.size = sizeof options;
    if (!engine_.bind.is_none()) options.engine = &engine;
    options.format = format.empty() ? nullptr : format.c_str();
    options.num_threads = threads;
    options.max_batch = max_batch;
    options.verify = verify;
    options.image_size = size ? size->data() : nullptr;
    ae_status status = AE_OK;
    {
      const py::gil_scoped_release nogil;
      status = ae_open(path.c_str(), &options, &handle_);
    }
    if (status != AE_OK) {
      const std::string message = ae_message(handle_);
      close();
      throw ae::Error(static_cast<ae::Status>(status), message);
    }
  }
  ~Handle() { close(); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  void close() {
    ae_handle* handle = handle_;
    handle_ = nullptr;
    if (handle != nullptr) ae_close(handle);
  }

  std::string manifest() const { return ae_manifest(open()); }

  py::bytes file(const std::string& name) {
    const void* data = nullptr;
    size_t bytes = 0;
    check(ae_file(open(), name.c_str(), &data, &bytes));
    return py::bytes(static_cast<const char*>(data), bytes);
  }

  void verify(const std::string& name) {
    const void* data = nullptr;
    size_t bytes = 0;
    ae_handle* handle = open();
    ae_status status = AE_OK;
    {
      const py::gil_scoped_release nogil;
      status = ae_file(handle, name.c_str(), &data, &bytes);
    }
    check(status);
  }

  void add_program(const std::string& json) { check(ae_add_program(open(), json.data(), json.size())); }

  py::array sample(int count, uint64_t seed, const Given<uint64_t>& seeds, const Given<int32_t>& classes,
                   const Given<int32_t>& negative_classes, const std::string& program, std::optional<float> guidance_scale,
                   std::optional<float> guidance_rescale, size_t elements, const Given<float>& latents, const Given<float>& noise,
                   const Given<float>& mask, const Given<float>& known, const Given<float>& known_noise, ae_output output,
                   const py::dict& conditions, const py::dict& negative_conditions) {
    const auto n = static_cast<size_t>(count);
    ae_sample_options options = {};
    options.size = sizeof options;
    options.program = program.empty() ? nullptr : program.c_str();
    options.count = count;
    options.output = output;
    options.seed = seed;
    options.seeds = pointer(seeds, n, "seeds");
    options.classes = pointer(classes, n, "classes");
    options.negative_classes = pointer(negative_classes, n, "negative_classes");
    options.guidance_scale = guidance_scale ? &*guidance_scale : nullptr;
    options.guidance_rescale = guidance_rescale ? &*guidance_rescale : nullptr;
    options.latents = pointer(latents, n * elements, "latents");
    options.num_draws = noise ? static_cast<size_t>(noise->shape(0)) : 0;
    options.noise = pointer(noise, options.num_draws * n * elements, "noise");
    options.mask = pointer(mask, n * elements, "mask");
    options.known = pointer(known, n * elements, "known");
    options.known_noise = pointer(known_noise, n * elements, "known_noise");
    const Tensors own(conditions), negative(negative_conditions);
    options.conditions = own.data();
    options.num_conditions = own.size();
    options.negative_conditions = negative.data();
    options.num_negative_conditions = negative.size();
    auto image = std::make_unique<ae_image>();
    *image = {};
    image->size = sizeof *image;
    ae_handle* handle = open();
    ae_status status = AE_OK;
    {
      const py::gil_scoped_release nogil;
      status = ae_sample(handle, &options, image.get());
    }
    check(status);
    const py::ssize_t N = image->count, H = image->height, W = image->width, C = image->channels;
    const auto shape = output == AE_OUTPUT_RGB8 ? std::vector<py::ssize_t>{N, H, W, C} : std::vector<py::ssize_t>{N, C, H, W};
    void* data = image->data;
    py::capsule owner(image.release(), [](void* p) {
      auto* owned = static_cast<ae_image*>(p);
      ae_image_free(owned);
      delete owned;
    });
    return py::array(py::dtype(output == AE_OUTPUT_RGB8 ? "uint8" : "float32"), shape, data, owner);
  }

  py::dict statistics() const {
    ae_statistics s = {};
    s.size = sizeof s;
    if (const ae_status status = ae_stats(open(), &s); status != AE_OK)
      throw ae::Error(static_cast<ae::Status>(status), ae_message(handle_));
    py::dict out;
    out["evaluations"] = s.evaluations;
    out["total_seconds"] = s.total_seconds;
    out["network_seconds"] = s.network_seconds;
    return out;
  }

 private:
  ae_handle* open() const {
    if (handle_ == nullptr) throw ae::Error(ae::kInvalidArgument, "this bundle was closed: open it again");
    return handle_;
  }

  void check(ae_status status) {
    if (engine_.raised) {
      py::error_already_set error = std::move(*engine_.raised);
      engine_.raised.reset();
      throw error;
    }
    if (status != AE_OK) throw ae::Error(static_cast<ae::Status>(status), ae_message(handle_));
  }

  PythonEngine engine_;
  ae_handle* handle_ = nullptr;
};

}  // namespace

void bind_runtime(py::module_& m) {
  bind_rows(m);
  py::class_<Handle>(m, "Handle", "One open bundle: the C API's ae_handle.")
      .def(py::init<const std::string&, py::object, const std::string&, int, int, ae_verify,
                    const std::optional<std::array<int32_t, 2>>&>(),
           py::arg("path"), py::arg("bind"), py::kw_only(), py::arg("format") = "", py::arg("threads") = 1,
           py::arg("max_batch") = 0, py::arg("verify") = static_cast<ae_verify>(AE_VERIFY_USED), py::arg("size") = py::none())
      .def("close", &Handle::close)
      .def("file", &Handle::file, py::arg("name"))
      .def("verify", &Handle::verify, py::arg("name"))
      .def("add_program", &Handle::add_program, py::arg("json"))
      .def("sample", &Handle::sample, py::kw_only(), py::arg("count"), py::arg("seed"), py::arg("seeds"), py::arg("classes"),
           py::arg("negative_classes"), py::arg("program"), py::arg("guidance_scale"), py::arg("guidance_rescale"),
           py::arg("elements"), py::arg("latents"), py::arg("noise"), py::arg("mask"), py::arg("known"), py::arg("known_noise"),
           py::arg("output"), py::arg("conditions") = py::dict(), py::arg("negative_conditions") = py::dict())
      .def_property_readonly("manifest", &Handle::manifest)
      .def_property_readonly("statistics", &Handle::statistics);
}
