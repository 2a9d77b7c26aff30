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
  py::object capture;                    // capture(work, batch) -> what replays it, or the reason why it cannot be captured
  std::map<uint64_t, py::object> bound;  // binding → what `bind` returned
  std::optional<py::error_already_set> raised;

  template <class F>
  ae_status guarded(char* message, size_t capacity, F&& f) {
    const py::gil_scoped_acquire gil;
    raised.reset();  // of a callback without which the runtime went on
    try {
      return f();
    } catch (py::error_already_set& error) {
      std::strncpy(message, "the engine raised a Python exception", capacity - 1);
      const bool interrupt = !error.matches(PyExc_Exception);
      raised.emplace(std::move(error));
      return interrupt ? AE_CANCELLED : AE_ENGINE;
    }
  }

  void raise() {
    if (!raised) return;
    py::error_already_set error = std::move(*raised);
    raised.reset();
    throw error;
  }
};

// An array in host memory; of a GPU what an attribute __cuda_array_interface__ holds.
py::object view(const ae_tensor& tensor) {
  const char* format = tensor.dtype == AE_FLOAT32   ? "float32"
                       : tensor.dtype == AE_INT64   ? "int64"
                       : tensor.dtype == AE_FLOAT16 ? "float16"
                                                    : "uint8";
  const std::vector<py::ssize_t> shape(tensor.shape, tensor.shape + tensor.rank);
  if (tensor.device == AE_CUDA) {
    py::dict interface;
    interface["shape"] = py::tuple(py::cast(shape));
    interface["typestr"] = py::dtype(format).attr("str");
    interface["data"] = py::make_tuple(reinterpret_cast<uintptr_t>(tensor.data), false);
    interface["version"] = 3;
    return interface;
  }
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
  return engine.guarded(message, capacity, [&] {
    auto found = engine.bound.find(evaluation->binding);
    if (found == engine.bound.end()) {
      py::object call = engine.bind(evaluation->component, views(evaluation->inputs, evaluation->num_inputs),
                                    views(evaluation->outputs, evaluation->num_outputs));
      found = engine.bound.emplace(evaluation->binding, std::move(call)).first;
    }
    found->second(evaluation->row, evaluation->num_rows);
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();  // Ctrl-C between two rows
    return AE_OK;
  });
}

void release(void* user, uint64_t binding) {
  const py::gil_scoped_acquire gil;
  static_cast<PythonEngine*>(user)->bound.erase(binding);
}

struct Replay {
  PythonEngine& engine;
  py::object run;
};

ae_status capture(void* user, const ae_capture* request, ae_replay* replay, char* message, size_t capacity) {
  auto& engine = *static_cast<PythonEngine*>(user);
  const ae_status status = engine.guarded(message, capacity, [&] {
    py::object captured = engine.capture(py::cpp_function([&engine, request] {
                                           char text[1024] = {};
                                           ae_status worked = AE_OK;
                                           {
                                             const py::gil_scoped_release nogil;
                                             worked = request->work(request->context, text, sizeof text);
                                           }
                                           engine.raise();
                                           if (worked != AE_OK) throw ae::Error(static_cast<ae::Status>(worked), text);
                                         }),
                                         request->batch);
    if (py::isinstance<py::str>(captured)) {
      std::strncpy(message, captured.cast<std::string>().c_str(), capacity - 1);
      return AE_UNSUPPORTED;
    }
    replay->user = new Replay{engine, std::move(captured)};
    return AE_OK;
  });
  if (engine.raised) return AE_CANCELLED;  // what is no reason, but an error: it ends the call
  replay->launch = [](void* own, char* text, size_t size) {
    auto& [owner, run] = *static_cast<Replay*>(own);
    return owner.guarded(text, size, [&run = run] {
      run();
      return AE_OK;
    });
  };
  replay->release = [](void* own) {
    const py::gil_scoped_acquire gil;
    delete static_cast<Replay*>(own);
  };
  return status;
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
  ae_sample_options& get() { return options_; }

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
                           const_cast<float*>(array.data()), AE_CPU});
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

using Sides = std::optional<std::array<int32_t, 2>>;  // height and width

class Handle {
 public:
  Handle(const std::string& path, py::object bind, const std::string& format, int threads, int max_batch, ae_verify verify,
         const Sides& size, const Sides& tile, const Sides& denoising_tile, const std::optional<int32_t>& overlap,
         ae_device device, uintptr_t stream, py::object capturing) {
    engine_.bind = std::move(bind);
    engine_.capture = std::move(capturing);
    ae_engine engine = {};
    engine.size = sizeof engine;
    engine.user = &engine_;
    engine.evaluate = evaluate;
    engine.release = release;
    if (!engine_.capture.is_none()) engine.capture = capture;
    ae_open_options options = {};
    options.size = sizeof options;
    if (!engine_.bind.is_none()) options.engine = &engine;
    options.format = format.empty() ? nullptr : format.c_str();
    options.num_threads = threads;
    options.max_batch = max_batch;
    options.verify = verify;
    options.image_size = size ? size->data() : nullptr;
    options.tile = tile ? tile->data() : nullptr;
    options.denoising_tile = denoising_tile ? denoising_tile->data() : nullptr;
    options.overlap = overlap ? &*overlap : nullptr;
    options.device = device;
    options.stream = reinterpret_cast<void*>(stream);
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
    SampleOptions options(request, elements);
    check(ae_check(open(), &options.get()));
  }

  py::array sample(const py::object& request, size_t elements, bool row_by_row) {
    ae_handle* handle = open();
    SampleOptions options(request, elements);
    options.get().row_by_row = row_by_row;
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
    out["captured"] = s.captured != 0;
    out["reason"] = s.reason == nullptr ? py::object(py::none()) : py::str(s.reason);
    return out;
  }

 private:
  ae_handle* open() const {
    if (handle_ == nullptr) throw ae::Error(ae::kInvalidArgument, "this bundle was closed: open it again");
    return handle_;
  }

  void check(ae_status status) {
    if (status == AE_OK) return engine_.raised.reset();  // that of a capture, without which it went on
    engine_.raise();
    throw ae::Error(static_cast<ae::Status>(status), ae_message(handle_));
  }

  PythonEngine engine_;
  ae_handle* handle_ = nullptr;
};

}  // namespace

void bind_runtime(py::module_& m) {
  bind_rows(m);
  py::class_<Handle>(m, "Handle", "One open bundle: the C API's ae_handle.")
      .def(py::init<const std::string&, py::object, const std::string&, int, int, ae_verify, const Sides&, const Sides&,
                    const Sides&, const std::optional<int32_t>&, ae_device, uintptr_t, py::object>(),
           py::arg("path"), py::arg("bind"), py::kw_only(), py::arg("format") = "", py::arg("threads") = 1,
           py::arg("max_batch") = 0, py::arg("verify") = static_cast<ae_verify>(AE_VERIFY_USED), py::arg("size") = py::none(),
           py::arg("tile") = py::none(), py::arg("denoising_tile") = py::none(), py::arg("overlap") = py::none(),
           py::arg("device") = static_cast<ae_device>(AE_CPU), py::arg("stream") = uintptr_t{0}, py::arg("capture") = py::none())
      .def("close", &Handle::close)
      .def("file", &Handle::file, py::arg("name"))
      .def("verify", &Handle::verify, py::arg("name"))
      .def("add_program", &Handle::add_program, py::arg("json"))
      .def("check", &Handle::check_request, py::arg("request"), py::arg("elements"))
      .def("sample", &Handle::sample, py::arg("request"), py::arg("elements"), py::arg("row_by_row") = false)
      .def_property_readonly("manifest", &Handle::manifest)
      .def_property_readonly("statistics", &Handle::statistics);
}
