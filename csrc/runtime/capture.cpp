// Loops on a GPU as CUDA graphs: when one is captured, by whom, and how its replay is verified.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/error.hpp"
#include "runtime/sampler.hpp"

namespace ae {
namespace {

constexpr size_t kMaxGraphRows = 500;  // a graph holds every kernel of every row, a few kilobytes each
constexpr double kAgree = 1e-2;        // relative L2 of a replay to a run: far above rounding, far below another result

ae_status failed(ae_status status, const char* what, char* message, size_t capacity) {
  const size_t length = std::min(std::strlen(what), capacity - 1);
  std::memcpy(message, what, length);
  message[length] = 0;
  return status;
}

// What an engine calls to have the rows run.
ae_status call(void* context, char* message, size_t capacity) {
  try {
    (*static_cast<std::function<void()>*>(context))();
    return AE_OK;
  } catch (const Error& error) {
    return failed(error.status, error.what(), message, capacity);
  } catch (const std::exception& error) {
    return failed(AE_INTERNAL, error.what(), message, capacity);
  }
}

bool agree(const std::vector<float>& replay, const std::vector<float>& run) {
  double size = 0, difference = 0;
  for (size_t i = 0; i < run.size(); ++i) {
    size += double{run[i]} * run[i];
    difference += (double{replay[i]} - run[i]) * (double{replay[i]} - run[i]);
  }
  return difference <= kAgree * kAgree * size;
}

}  // namespace

// Why the loop runs row by row; empty where it is a graph, or becomes one after this run.
std::string Sampler::reason_to_run(const Loop& loop, const ae_sample_options& options) const {
  if (memory_->on_host()) return "the device is the CPU";
  const size_t rows = loop.rows.size();
  if (rows == 0) return "one evaluation is not a loop";
  if (options.row_by_row != 0) return "the engine was asked for row by row, which progress needs";
  const size_t tiles = denoiser_tiles_ ? denoiser_tiles_->count() : 1;
  if (rows * tiles > kMaxGraphRows)
    return "the program has " + std::to_string(rows) + " rows" +
           (tiles > 1 ? " of " + std::to_string(tiles) + " tiles each" : std::string()) + ", and a graph of more than " +
           std::to_string(kMaxGraphRows) + " takes too much memory";
  if (!loop.never.empty()) return loop.never;
  if (!loop.ran) return "the first loop of a program, batch size and guidance runs row by row, the next is captured";
  return "";
}

// After a run: captures the loop and replays it from the same state. The result is then the replay's, or that of another run.
void Sampler::capture(Loop& loop, const ae_sample_options& options, int first) {
  const std::vector<float> run = state(loop.batch);
  if (!std::all_of(run.begin(), run.end(), [](float value) { return std::isfinite(value); })) {
    reason_ = "the run was not finite, so that no replay can be compared with it";
    return;  // the next one is captured
  }
  const int64_t evaluations = statistics_.evaluations;
  try {
    std::function<void()> replay = record(loop);
    try {
      start(loop, options, first);
      replay();
      if (!agree(state(loop.batch), run))
        throw Error(kEngine,
                    "its replay differs from a run: it keeps a state outside its tensors, or works on a stream of its own");
    } catch (...) {
      memory_->settle();  // before the replay is released, which may still run
      throw;
    }
    loop.replay = std::move(replay);  // only what was compared is kept
  } catch (const Error& error) {
    memory_->settle();
    if (error.status == kCancelled) throw;
    loop.never =
        error.status == kUnsupported ? error.what() : std::string("the network cannot be captured (") + error.what() + ")";
    reason_ = loop.never;
    start(loop, options, first);
    run_rows(loop, first);
  }
  statistics_.evaluations = evaluations;
}

std::function<void()> Sampler::record(Loop& loop) {
  std::function<void()> work = [&] { run_rows(loop, 0); };
  if (engine_.capture == nullptr) return memory_->capture(work);
  ae_capture request = {sizeof request, int64_t{loop.batch} * loop.rows.max_halves(), memory_->stream(), call, &work};
  ae_replay replay = {};
  replay.size = sizeof replay;
  char message[1024] = {};
  const ae_status status = engine_.capture(engine_.user, &request, &replay, message, sizeof message);
  if (status != AE_OK) throw engine_error(status, message, sizeof message);
  if (replay.launch == nullptr) throw Error(kEngine, "its engine returned nothing to replay");
  const std::shared_ptr<ae_replay> owned(new ae_replay(replay), [](ae_replay* r) {
    if (r->release != nullptr) r->release(r->user);
    delete r;
  });
  return [owned] {
    char text[1024] = {};
    const ae_status launched = owned->launch(owned->user, text, sizeof text);
    if (launched != AE_OK) throw engine_error(launched, text, sizeof text);
  };
}

// Slot 0, in host memory.
std::vector<float> Sampler::state(int batch) const {
  std::vector<float> values(static_cast<size_t>(batch * sample_elements_));
  memory_->download(values.data(), slots_.data(), values.size() * sizeof(float));
  memory_->wait();
  return values;
}

}  // namespace ae
