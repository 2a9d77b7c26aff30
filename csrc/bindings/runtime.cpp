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
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

// A request's attributes as the C API takes them: an object with the names of ae_sample_options. What they point to lives in
// here.
class SampleOptions {
 public:
  SampleOptions(const py::object& request, size_t elements) : request_(request) {
    const auto n = request.attr("count").cast<size_t>();
    const auto output = request.attr("output").cast<std::string>();
    options_.size = sizeof options_;
    options_.count = static_cast<int32_t>(n);
    options_.output = output == "uint8" ? AE_OUTPUT_RGB8 : AE_OUTPUT_FLOAT32;
    options_.seed = request.attr("seed").cast<uint64_t>();
    options_.program = text("program");
    options_.seeds = array<uint64_t>("seeds", n);
    options_.classes = array<int32_t>("classes", n);
    options_.negative_classes = array<int32_t>("negative_classes", n);
    options_.guidance_scale = number("guidance_scale", scale_);
    options_.guidance_rescale = number("guidance_rescale", rescale_);
    options_.latents = array<float>("latents", n * elements);
    options_.mask = array<float>("mask", n * elements);
    options_.known = array<float>("known", n * elements);
    options_.known_noise = array<float>("known_noise", n * elements);
    const py::object noise = request.attr("noise");
    options_.num_draws = noise.is_none() ? 0 : py::len(noise);
    options_.noise = array<float>("noise", options_.num_draws * n * elements);
    own_.fill(request.attr("conditions"));
    negative_.fill(request.attr("negative_conditions"));
    options_.conditions = own_.pointers.data();
    options_.num_conditions = own_.pointers.size();
    options_.negative_conditions = negative_.pointers.data();
    options_.num_negative_conditions = negative_.pointers.size();
  }
  SampleOptions(const SampleOptions&) = delete;
  SampleOptions& operator=(const SampleOptions&) = delete;
  const ae_sample_options& get() const { return options_; }

 private:
  // Conditions by name.
  struct Tensors {
    std::deque<std::string> names;
    std::deque<std::vector<int64_t>> shapes;
    std::deque<Array<float>> arrays;
    std::deque<ae_tensor> tensors;
    std::vector<const ae_tensor*> pointers;

    void fill(const py::object& conditions) {
      if (conditions.is_none()) return;
      for (const auto& [name, value] : conditions.cast<py::dict>()) {
        names.push_back(name.cast<std::string>());
        const auto& array = arrays.emplace_back(value.cast<Array<float>>());
        const auto& shape = shapes.emplace_back(array.shape(), array.shape() + array.ndim());
        tensors.push_back({sizeof(ae_tensor), names.back().c_str(), AE_FLOAT32, static_cast<int32_t>(array.ndim()), shape.data(),
                           const_cast<float*>(array.data())});
        pointers.push_back(&tensors.back());
      }
    }
  };

  const char* text(const char* name) {
    const py::object value = request_.attr(name);
    return value.is_none() ? nullptr : texts_.emplace_back(value.cast<std::string>()).c_str();
  }
  const float* number(const char* name, float& into) {
    const py::object value = request_.attr(name);
    if (value.is_none()) return nullptr;
    into = static_cast<float>(value.cast<double>());
    return &into;
  }
  template <class T>
  const T* array(const char* name, size_t count) {
    const py::object value = request_.attr(name);
    if (value.is_none()) return nullptr;
    auto array = value.cast<Array<T>>();
    if (static_cast<size_t>(array.size()) != count)
      throw ae::Error(ae::kInvalidArgument, std::string(name) + " holds " + std::to_string(array.size()) +
                                                " values, it must hold " + std::to_string(count));
    const T* data = array.data();
    arrays_.push_back(std::move(array));
    return data;
  }

  const py::object& request_;
  ae_sample_options options_ = {};
  float scale_ = 1, rescale_ = 0;
  std::deque<std::string> texts_;
  std::deque<py::object> arrays_;
  Tensors own_, negative_;
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
    ae_handle* handle = open();
    ae_status status = AE_OK;
    {
      const py::gil_scoped_release nogil;
      status = ae_file(handle, name.c_str(), nullptr, nullptr);
    }
    check(status);
  }

  void add_program(const std::string& json) { check(ae_add_program(open(), json.data(), json.size())); }

  void check_request(const py::object& request, size_t elements) {
    const SampleOptions options(request, elements);
    check(ae_check(open(), &options.get()));
  }

  py::array sample(const py::object& request, size_t elements) {
    ae_handle* handle = open();
    const SampleOptions options(request, elements);
    auto image = std::make_unique<ae_image>();
    *image = {};
    image->size = sizeof *image;
    ae_status status = AE_OK;
    {
      const py::gil_scoped_release nogil;
      status = ae_sample(handle, &options.get(), image.get());
    }
    check(status);
    const py::ssize_t N = image->count, H = image->height, W = image->width, C = image->channels;
    const bool rgb8 = image->output == AE_OUTPUT_RGB8;
    const auto shape = rgb8 ? std::vector<py::ssize_t>{N, H, W, C} : std::vector<py::ssize_t>{N, C, H, W};
    void* data = image->data;
    py::capsule owner(image.release(), [](void* p) {
      auto* owned = static_cast<ae_image*>(p);
      ae_image_free(owned);
      delete owned;
    });
    return py::array(py::dtype(rgb8 ? "uint8" : "float32"), shape, data, owner);
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
      .def("check", &Handle::check_request, py::arg("request"), py::arg("elements"))
      .def("sample", &Handle::sample, py::arg("request"), py::arg("elements"))
      .def_property_readonly("manifest", &Handle::manifest)
      .def_property_readonly("statistics", &Handle::statistics);
}
