// ae_sample on the emulated GPU against ae_sample on the CPU: the same results and messages, one graph from the second call on,
// and nothing left behind. Takes the path of a bundle with classes. It is one file because all its parts share the engine.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "aigc_edge/aigc_edge.h"
#include "core/cuda.cuh"
#include "emulated_rows.hpp"

namespace {

const char* bundle = nullptr;
std::mt19937 generator{std::random_device{}()};

void require(bool holds, const std::string& what, int line = __builtin_LINE()) {
  if (holds) return;
  std::fprintf(stderr, "line %d: %s\n", line, what.c_str());
  std::exit(1);
}

size_t elements(const ae_tensor& tensor) {
  size_t count = 1;
  for (int i = 1; i < tensor.rank; ++i) count *= static_cast<size_t>(tensor.shape[i]);
  return count;
}

double value(const ae_tensor& tensor, size_t i) {
  return tensor.dtype == AE_INT64 ? static_cast<double>(static_cast<const int64_t*>(tensor.data)[i])
                                  : static_cast<const float*>(tensor.data)[i];
}

// A network of whatever inputs; on a GPU it is queued.
struct Engine {
  int calls = 0, released = 0;
  int offset = 0;  // grows with each call where the network keeps a state
  bool stateful = false, waits = false, spoils = false, refuses = false, cancels = false, captures = false;
  std::map<uint64_t, std::vector<void*>> bindings;

  static void compute(const std::vector<ae_tensor>& inputs, const ae_tensor& output, int offset, bool spoils) {
    const auto samples = static_cast<size_t>(output.shape[0]);
    for (size_t n = 0; n < samples; ++n) {
      double shift = 0.1 * offset;
      for (size_t k = 1; k < inputs.size(); ++k) shift += 0.03 * value(inputs[k], n * elements(inputs[k]));
      const size_t wide = elements(inputs[0]), own = elements(output);
      for (size_t e = 0; e < own; ++e)
        static_cast<float*>(output.data)[n * own + e] =
            static_cast<float>(std::tanh(0.7 * value(inputs[0], n * wide + e % wide) + shift));
      if (spoils && n + 1 == samples) static_cast<float*>(output.data)[n * own + own / 2] = INFINITY;
    }
  }

  static ae_status evaluate(void* user, const ae_evaluation* e, char* message, size_t capacity) {
    auto& self = *static_cast<Engine*>(user);
    ++self.calls;
    std::vector<void*> addresses;
    std::vector<ae_tensor> inputs;
    for (size_t i = 0; i < e->num_inputs; ++i) inputs.push_back(*e->inputs[i]), addresses.push_back(e->inputs[i]->data);
    addresses.push_back(e->outputs[0]->data);
    const auto known = self.bindings.emplace(e->binding, addresses).first;
    require(known->second == addresses, "equal bindings have equal addresses");
    if (self.stateful) ++self.offset;
    const bool schedule = std::strcmp(e->component, "schedule") == 0;
    require((e->stream != nullptr) == (e->outputs[0]->device == AE_CUDA), "a stream where the tensors are on a GPU");
    if (self.cancels) {
      std::snprintf(message, capacity, "that is enough");
      return AE_CANCELLED;
    }
    if (self.waits && cudaStreamSynchronize(e->stream) != cudaSuccess) {
      std::snprintf(message, capacity, "it reads a value back");
      return AE_ENGINE;
    }
    const ae_tensor output = *e->outputs[0];
    const auto work = [inputs, output, offset = self.offset, spoils = self.spoils && e->row == 2 && !schedule] {
      compute(inputs, output, offset, spoils);
    };
    if (output.device == AE_CPU) {
      work();
    } else {
      for (const ae_tensor& input : inputs) require(emulation::on_device(input.data, 1), "inputs are on the device");
      emulation::enqueue(work);
    }
    return AE_OK;
  }

  static void release(void* user, uint64_t binding) {
    auto& self = *static_cast<Engine*>(user);
    require(self.bindings.erase(binding) == 1, "only bindings that were seen are released");
    ++self.released;
  }

  static ae_status capture(void* user, const ae_capture* c, ae_replay* replay, char* message, size_t capacity) {
    if (static_cast<Engine*>(user)->refuses) {
      std::snprintf(message, capacity, "a batch of %d is too large", static_cast<int>(c->batch));
      return AE_UNSUPPORTED;
    }
    cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal);
    const ae_status status = c->work(c->context, message, capacity);
    cudaGraph_t graph = nullptr;
    cudaStreamEndCapture(c->stream, &graph);
    if (status != AE_OK) return status;
    replay->user = graph;
    replay->launch = [](void* own, char*, size_t) -> ae_status {
      return cudaGraphLaunch(static_cast<cudaGraphExec_t>(own), nullptr) == cudaSuccess ? AE_OK : AE_ENGINE;
    };
    replay->release = [](void* own) { cudaGraphDestroy(static_cast<cudaGraph_t>(own)); };
    return AE_OK;
  }
};

struct Sides {
  const int32_t *image, *denoising_tile, *tile;
};

struct Handle {
  Engine engine;
  ae_handle* handle = nullptr;

  explicit Handle(ae_device device, const Engine& like = {}, int max_batch = 3, const ae_allocator* allocator = nullptr,
                  const char* path = bundle, const Sides* sides = nullptr)
      : engine(like) {
    ae_engine callbacks = {};
    callbacks.size = sizeof callbacks;
    callbacks.user = &engine;
    callbacks.evaluate = Engine::evaluate;
    callbacks.release = Engine::release;
    if (engine.captures || engine.refuses) callbacks.capture = Engine::capture;
    ae_open_options options = {};
    options.size = sizeof options;
    options.engine = &callbacks;
    options.max_batch = max_batch;
    options.device = device;
    options.allocator = allocator;
    if (sides != nullptr) {
      options.image_size = sides->image;
      options.denoising_tile = sides->denoising_tile;
      options.tile = sides->tile;
    }
    require(ae_open(path, &options, &handle) == AE_OK, std::string("open: ") + ae_message(handle));
    require(ae_add_program(handle, kProgram, std::strlen(kProgram)) == AE_OK, ae_message(handle));
  }
  ~Handle() {
    ae_close(handle);
    require(engine.bindings.empty(), "all bindings are released");
  }
  Handle(const Handle&) = delete;

  // The samples, or none where the call fails.
  std::vector<float> sample(const ae_sample_options& request) {
    ae_image image = {};
    image.size = sizeof image;
    if (ae_sample(handle, &request, &image) != AE_OK) return {};
    std::vector<float> values(static_cast<size_t>(image.count) * image.height * image.width * image.channels);
    for (size_t i = 0; i < values.size(); ++i)
      values[i] =
          image.output == AE_OUTPUT_RGB8 ? static_cast<unsigned char*>(image.data)[i] : static_cast<float*>(image.data)[i];
    ae_image_free(&image);
    return values;
  }

  ae_statistics statistics() const {
    ae_statistics s = {};
    s.size = sizeof s;
    require(ae_stats(handle, &s) == AE_OK, "statistics");
    return s;
  }
  std::string reason() const { return statistics().reason != nullptr ? statistics().reason : ""; }
  bool says(const char* words) const { return std::strstr(ae_message(handle), words) != nullptr; }
};

void compare(const std::vector<float>& found, const std::vector<float>& wanted, const std::string& what, float tolerance) {
  require(!wanted.empty() && found.size() == wanted.size(), what + ": the number of values");
  for (size_t i = 0; i < found.size(); ++i)
    require(std::fabs(found[i] - wanted[i]) <= tolerance,
            what + ": value " + std::to_string(i) + " is " + std::to_string(found[i]) + ", not " + std::to_string(wanted[i]));
}

std::vector<float> normals(size_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& v : values) v = normal(generator);
  return values;
}

ae_sample_options request(int count) {
  ae_sample_options options = {};
  options.size = sizeof options;
  options.count = count;
  options.output = AE_OUTPUT_FLOAT32;
  options.seed = generator();
  return options;
}

constexpr int kElements = 16 * 16;

// Each request three times with other values: row by row, captured, replayed.
void same_results(bool own_capture) {
  Engine engine;
  engine.captures = own_capture;
  Handle cpu(AE_CPU), gpu(AE_CUDA, engine);
  const float scale = 3.0f, rescale = 0.4f;
  for (const char* program : {static_cast<const char*>(nullptr), "euler_ancestral-10", "emulated"}) {
    for (const int variant : {0, 1, 2, 3, 4}) {
      if (variant > 2 && (program == nullptr || program[1] != 'm')) continue;  // masks need levels
      for (const int count : {2, 7}) {                                         // 7: batches of 3, 3 and 1
        for (int run = 0; run < 3; ++run) {
          const std::string what = std::string(program ? program : "default") + " variant " + std::to_string(variant) +
                                   " count " + std::to_string(count) + " run " + std::to_string(run);
          ae_sample_options options = request(count);
          options.program = program;
          std::vector<int32_t> classes, negative;
          for (int i = 0; i < count; ++i) classes.push_back(static_cast<int>(generator() % 11) - 1);
          for (int i = 0; i < count; ++i) negative.push_back(static_cast<int>(generator() % 11) - 1);
          const auto all = static_cast<size_t>(count) * kElements;
          const auto latents = normals(all), known = normals(all), eps = normals(all), noise = normals(2 * all);
          auto mask = normals(all);
          for (float& m : mask) m = m > 0 ? 1.0f : 0.0f;
          if (variant == 1) options.classes = classes.data(), options.negative_classes = negative.data();
          if (variant == 2)
            options.guidance_scale = &scale, options.guidance_rescale = &rescale, options.latents = latents.data();
          if (variant == 3)
            options.mask = mask.data(), options.known = known.data(), options.known_noise = run ? eps.data() : nullptr;
          if (variant == 4) options.noise = noise.data(), options.num_draws = 2;
          if (variant == 0) options.output = AE_OUTPUT_RGB8;
          const auto wanted = cpu.sample(options), found = gpu.sample(options);
          require(!wanted.empty(), what + ": " + ae_message(cpu.handle));
          require(!found.empty(), what + ": " + ae_message(gpu.handle));
          compare(found, wanted, what, variant == 0 ? 1.0f : 2e-3f);
          require(gpu.statistics().evaluations == cpu.statistics().evaluations, what + ": the evaluations");
          if (run > 0) require(gpu.statistics().captured == 1 && gpu.reason().empty(), what + ": " + gpu.reason());
        }
      }
    }
  }
}

// Windows of the denoiser are part of the graph, tiles of the decoder come after it.
void in_tiles(const std::string& latent_bundle) {
  const int32_t large[] = {24, 40}, own[] = {16, 16}, image[] = {40, 56}, window[] = {16, 16}, tile[] = {24, 20};
  const Sides pixels{large, own, nullptr}, latents{image, window, tile};
  for (const bool latent : {false, true}) {
    const char* path = latent ? latent_bundle.c_str() : bundle;
    const Sides* sides = latent ? &latents : &pixels;
    Handle cpu(AE_CPU, {}, 3, nullptr, path, sides), gpu(AE_CUDA, {}, 3, nullptr, path, sides);
    for (const ae_output output : {AE_OUTPUT_FLOAT32, AE_OUTPUT_RGB8}) {
      for (int run = 0; run < 3; ++run) {
        const std::string what = std::string(latent ? "latents" : "pixels") + " in tiles, run " + std::to_string(run);
        ae_sample_options options = request(5);
        options.output = output;
        options.program = "emulated";
        const auto wanted = cpu.sample(options), found = gpu.sample(options);
        require(!wanted.empty() && !found.empty(), what + ": " + ae_message(cpu.handle) + ae_message(gpu.handle));
        compare(found, wanted, what, output == AE_OUTPUT_RGB8 ? 1.0f : 2e-3f);
        require(gpu.statistics().evaluations == cpu.statistics().evaluations, what + ": the evaluations");
        if (run > 0) require(gpu.statistics().captured == 1, what + ": " + gpu.reason());
      }
    }
  }
}

void when_it_is_captured() {
  Handle gpu(AE_CUDA);
  gpu.sample(request(2));
  require(gpu.statistics().captured == 0 && gpu.reason().find("the first loop") == 0, gpu.reason());
  gpu.sample(request(2));
  require(gpu.statistics().captured == 1, gpu.reason());
  const int calls = gpu.engine.calls, graphs = emulation::machine().graphs;
  gpu.sample(request(2));
  require(gpu.engine.calls == calls && emulation::machine().graphs == graphs + 1, "a replay calls no engine");
  ae_sample_options rows = request(2);
  rows.row_by_row = 1;
  gpu.sample(rows);
  require(gpu.statistics().captured == 0 && gpu.reason().find("row by row") != std::string::npos, gpu.reason());
  require(gpu.engine.calls > calls, "row by row each evaluation is seen");
  gpu.sample(request(2));
  require(gpu.statistics().captured == 1, "the graph is still there");
  gpu.sample(request(3));
  require(gpu.statistics().captured == 0, "a larger batch has other buffers");
  // Nine scales, of which eight loops stay.
  for (int run = 0; run < 2; ++run) {
    for (int i = 0; i < 9; ++i) {
      const float scale = 2.0f + static_cast<float>(i);
      ae_sample_options options = request(2);
      options.guidance_scale = &scale;
      gpu.sample(options);
      require(gpu.statistics().captured == 0, "the oldest of nine loops went");
    }
  }
  Handle cpu(AE_CPU);
  cpu.sample(request(1));
  require(cpu.reason() == "the device is the CPU", cpu.reason());
}

void what_cannot_be_captured() {
  struct Case {
    std::function<void(Engine&)> set;
    const char* reason;
  };
  const Case cases[] = {
      {[](Engine& e) { e.waits = true; }, "the network cannot be captured (it reads a value back)"},
      {[](Engine& e) { e.waits = e.captures = true; }, "the network cannot be captured (it reads a value back)"},
      {[](Engine& e) { e.stateful = true; }, "the network cannot be captured (its replay differs from a run"},
      {[](Engine& e) { e.refuses = true; }, "a batch of 4 is too large"},
  };
  for (const Case& c : cases) {
    Engine engine;
    c.set(engine);
    Handle gpu(AE_CUDA, engine);
    for (int run = 0; run < 4; ++run) {
      const bool sampled = !gpu.sample(request(2)).empty();
      require(sampled, ae_message(gpu.handle));
      require(gpu.statistics().captured == 0, c.reason);
      if (run > 0) require(gpu.reason().find(c.reason) == 0, "reason: " + gpu.reason());
    }
    gpu.engine.waits = gpu.engine.stateful = false;
    Handle cpu(AE_CPU);
    cpu.engine.offset = gpu.engine.offset;
    const ae_sample_options options = request(2);
    compare(gpu.sample(options), cpu.sample(options), "after a failed capture", 2e-3f);
  }
}

void errors() {
  Engine engine;
  engine.spoils = true;
  Handle cpu(AE_CPU, engine), gpu(AE_CUDA, engine);
  const ae_sample_options options = request(7);
  for (int run = 0; run < 3; ++run) {  // the last is a replay
    const bool failed = cpu.sample(options).empty() && gpu.sample(options).empty();
    require(failed, "values that are not finite are not returned");
    require(std::string(ae_message(cpu.handle)) == ae_message(gpu.handle), ae_message(gpu.handle));
    require(gpu.says("in row 2 of ") && gpu.says(" for sample 2"), ae_message(gpu.handle));
  }
  gpu.engine.spoils = false;
  Handle fine(AE_CUDA);
  fine.sample(request(1));
  fine.engine.cancels = true;
  require(fine.sample(request(1)).empty() && fine.says("that is enough"), "cancelled");
  fine.engine.cancels = false;
  require(!fine.sample(request(1)).empty(), "a cancelled handle can be used again");
  ae_open_options wrong = {};
  wrong.size = sizeof wrong;
  wrong.device = 7;
  ae_handle* handle = nullptr;
  require(ae_open(bundle, &wrong, &handle) == AE_INVALID_ARGUMENT && std::strstr(ae_message(handle), "the device is 7"),
          "device 7");
  ae_close(handle);
}

// A caller's allocator serves every buffer, and what it gives comes back.
void own_allocator() {
  static std::map<void*, size_t> live;
  static int left = 0;  // so many allocations succeed
  ae_allocator allocator = {};
  allocator.size = sizeof allocator;
  allocator.allocate = [](void*, size_t bytes, int32_t, void* stream) -> void* {
    require(stream != nullptr, "the stream of the buffers");
    void* data = nullptr;
    if (left-- <= 0 || cudaMalloc(&data, bytes) != cudaSuccess) return nullptr;
    live[data] = bytes;
    return data;
  };
  allocator.free = [](void*, void* data, int32_t, void*) {
    require(live.erase(data) == 1, "what is freed was allocated");
    cudaFree(data);
  };
  int enough = 0;
  for (bool failed = true; failed; ++enough) {  // memory runs out at every place, and the handle goes on when there is some
    Handle gpu(AE_CUDA, {}, 3, &allocator);
    left = enough;
    failed = gpu.sample(request(2)).empty();
    if (failed) require(gpu.says("memory ran out"), ae_message(gpu.handle));
    left = 1000;
    const size_t others = emulation::machine().memory.size() - live.size();
    require(!gpu.sample(request(2)).empty(), "there is memory again");
    require(emulation::machine().memory.size() == others + live.size(), "no other memory is used");
  }
  require(enough > 8, "each buffer is from the allocator");
  require(live.empty(), "all is freed");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  bundle = argv[1];
  same_results(false);
  same_results(true);
  in_tiles(std::string(bundle) + "/../../bundle/data/sizes.aigc");
  when_it_is_captured();
  what_cannot_be_captured();
  errors();
  own_allocator();
  require(emulation::machine().memory.empty(), "all memory of the device is freed");
  std::printf("done\n");
}
