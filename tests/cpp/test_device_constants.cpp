// Schedule constants on the emulated GPU and on the CPU: every evaluation of the denoiser takes those of its timestep, for every
// sample, from the bundle's table or evaluated by the schedule; in replays of a CUDA graph too. Takes the path of a bundle with
// the programs "listed", whose timesteps are in the table, and "other", whose are not.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "aigc_edge/aigc_edge.h"
#include "core/cuda.cuh"

namespace {

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

// Element `e` of a constant, as evaluated by the schedule. The table of the bundle holds one more.
float constant(const std::string& name, float timestep, size_t e) {
  return (name == "early" ? 1.0f : -1.0f) * (timestep + 0.01f * static_cast<float>(e));
}

struct Engine {
  float listed = 0;    // what the table's values are larger by, in programs that it lists
  int schedule = 0;    // evaluations of it
  int wrong = 0;       // values of constants
  size_t checked = 0;  // values of constants

  static ae_status evaluate(void* user, const ae_evaluation* e, char*, size_t) {
    auto& self = *static_cast<Engine*>(user);
    std::vector<ae_tensor> inputs, outputs;
    for (size_t i = 0; i < e->num_inputs; ++i) inputs.push_back(*e->inputs[i]);
    for (size_t i = 0; i < e->num_outputs; ++i) outputs.push_back(*e->outputs[i]);
    const bool schedule = std::strcmp(e->component, "schedule") == 0;
    self.schedule += schedule;
    const auto work = [&self, inputs, outputs, schedule] {
      schedule ? evaluate_schedule(inputs, outputs) : self.denoise(inputs, outputs);
    };
    if (outputs[0].device == AE_CPU) {
      work();
    } else {
      for (const ae_tensor& input : inputs) require(emulation::on_device(input.data, 1), "inputs are on the device");
      emulation::enqueue(work);
    }
    return AE_OK;
  }

  static void evaluate_schedule(const std::vector<ae_tensor>& inputs, const std::vector<ae_tensor>& outputs) {
    const float timestep = *static_cast<const float*>(inputs[0].data);
    for (const ae_tensor& output : outputs)
      for (size_t i = 0; i < elements(output); ++i) static_cast<float*>(output.data)[i] = constant(output.name, timestep, i);
  }

  // Half the sample, plus the last element of each constant.
  void denoise(const std::vector<ae_tensor>& inputs, const std::vector<ae_tensor>& outputs) {
    const auto samples = static_cast<size_t>(outputs[0].shape[0]);
    const ae_tensor* x = nullptr;
    const float* timestep = nullptr;
    for (const ae_tensor& input : inputs) {
      if (std::strcmp(input.name, "sample") == 0) x = &input;
      if (std::strcmp(input.name, "timestep") == 0) timestep = static_cast<const float*>(input.data);
    }
    require(x != nullptr && timestep != nullptr && inputs.size() == 4, "the inputs of the denoiser");
    std::vector<float> shift(samples);
    for (const ae_tensor& input : inputs) {
      if (&input == x || input.data == timestep) continue;
      const size_t own = elements(input);
      for (size_t n = 0; n < samples; ++n) {
        const float* values = static_cast<const float*>(input.data) + n * own;
        for (size_t i = 0; i < own; ++i, ++checked) wrong += values[i] != constant(input.name, timestep[n], i) + listed;
        shift[n] += 0.1f * values[own - 1];
      }
    }
    const size_t own = elements(*x);
    for (size_t i = 0; i < samples * own; ++i)
      static_cast<float*>(outputs[0].data)[i] = 0.5f * static_cast<const float*>(x->data)[i] + shift[i / own];
  }
};

struct Handle {
  Engine engine;
  ae_handle* handle = nullptr;

  Handle(const char* bundle, ae_device device) {
    ae_engine callbacks = {};
    callbacks.size = sizeof callbacks;
    callbacks.user = &engine;
    callbacks.evaluate = Engine::evaluate;
    ae_open_options options = {};
    options.size = sizeof options;
    options.engine = &callbacks;
    options.max_batch = 3;
    options.device = device;
    require(ae_open(bundle, &options, &handle) == AE_OK, std::string("open: ") + ae_message(handle));
  }
  ~Handle() { ae_close(handle); }
  Handle(const Handle&) = delete;

  std::vector<float> sample(const char* program, int count, uint64_t seed) {
    engine.listed = std::strcmp(program, "listed") == 0 ? 1.0f : 0.0f;
    engine.checked = 0;
    ae_sample_options request = {};
    request.size = sizeof request;
    request.program = program;
    request.count = count;
    request.seed = seed;
    request.output = AE_OUTPUT_FLOAT32;
    ae_image image = {};
    image.size = sizeof image;
    require(ae_sample(handle, &request, &image) == AE_OK, std::string(program) + ": " + ae_message(handle));
    const auto* data = static_cast<const float*>(image.data);
    std::vector<float> values(data, data + static_cast<size_t>(image.count) * image.height * image.width * image.channels);
    ae_image_free(&image);
    require(engine.wrong == 0, std::string(program) + ": " + std::to_string(engine.wrong) + " constants of other timesteps");
    require(engine.checked > 0, std::string(program) + ": constants were read");
    return values;
  }

  bool captured() const {
    ae_statistics s = {};
    s.size = sizeof s;
    require(ae_stats(handle, &s) == AE_OK, "statistics");
    return s.captured == 1;
  }
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  {
    Handle cpu(argv[1], AE_CPU), gpu(argv[1], AE_CUDA);
    uint64_t seed = 1;
    for (int turn = 0; turn < 2; ++turn) {  // the second after another program has used the same buffers
      for (const char* program : {"listed", "other"}) {
        for (const int count : {1, 3, 2}) {            // a batch of 3 has new buffers, one of 2 uses some of them
          for (int run = 0; run < 3; ++run, ++seed) {  // row by row, captured, replayed
            const std::vector<float> wanted = cpu.sample(program, count, seed), found = gpu.sample(program, count, seed);
            require(wanted.size() == found.size() && !wanted.empty(), "the number of values");
            for (size_t i = 0; i < found.size(); ++i)
              require(std::fabs(found[i] - wanted[i]) <= 1e-4f * (1 + std::fabs(wanted[i])), std::string(program) + ": values");
            if (run > 0) require(gpu.captured(), std::string(program) + ": captured");
          }
        }
        if (turn == 0) {
          const bool listed = gpu.engine.listed != 0;
          require((cpu.engine.schedule == 0) == listed, "the schedule is evaluated on the CPU for what the table lacks");
          require((gpu.engine.schedule == 0) == listed, "the schedule is evaluated on the GPU for what the table lacks");
        }
      }
      require(cpu.engine.schedule == 5 && gpu.engine.schedule == 5, "the schedule is evaluated once for each timestep");
    }
  }
  require(emulation::machine().memory.empty(), "all memory of the device is freed");
  std::printf("done\n");
}
