// Callbacks that call the handle which calls them: refused in a sentence, and ae_close waits. Takes the path of a bundle.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "aigc_edge/aigc_edge.h"

namespace {

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "%s\n", what);
  std::exit(1);
}

struct Engine {
  ae_handle* handle = nullptr;
  bool closes = false, fails = false;
  int calls = 0, released = 0;
};

ae_status evaluate(void* user, const ae_evaluation* e, char*, size_t) {
  auto& engine = *static_cast<Engine*>(user);
  ++engine.calls;
  ae_image image = {};
  image.size = sizeof image;
  require(ae_sample(engine.handle, nullptr, &image) == AE_INVALID_ARGUMENT && image.data == nullptr, "ae_sample is refused");
  require(std::strstr(ae_message(engine.handle), "ae_sample was called by an engine"), "the message of ae_sample");
  require(ae_add_program(engine.handle, "{}", 2) == AE_INVALID_ARGUMENT, "ae_add_program is refused");
  require(std::strstr(ae_message(engine.handle), "ae_add_program was called by an engine"), "the message of ae_add_program");
  require(ae_check(engine.handle, nullptr) == AE_OK, "what changes nothing is allowed");
  if (engine.closes) ae_close(engine.handle);
  require(engine.released == 0, "nothing is released while it is in use");
  std::memset(e->outputs[0]->data, 0, static_cast<size_t>(e->outputs[0]->shape[0]) * 256 * sizeof(float));
  return engine.fails ? AE_ENGINE : AE_OK;
}

// Called by ae_close, or within ae_sample where the buffers grow.
void release(void* user, uint64_t) {
  auto& engine = *static_cast<Engine*>(user);
  ++engine.released;
  ae_image image = {};
  image.size = sizeof image;
  ae_statistics statistics = {};
  statistics.size = sizeof statistics;
  require(ae_sample(engine.handle, nullptr, &image) == AE_INVALID_ARGUMENT, "ae_sample is refused in release");
  require(ae_add_program(engine.handle, "{}", 2) == AE_INVALID_ARGUMENT, "ae_add_program is refused in release");
  ae_check(engine.handle, nullptr);
  ae_stats(engine.handle, &statistics);
  ae_close(engine.handle);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  for (const bool closes : {false, true}) {
    for (const bool fails : {false, true}) {
      Engine engine;
      engine.closes = closes;
      engine.fails = fails;
      ae_engine callbacks = {};
      callbacks.size = sizeof callbacks;
      callbacks.user = &engine;
      callbacks.evaluate = evaluate;
      callbacks.release = release;
      ae_open_options options = {};
      options.size = sizeof options;
      options.engine = &callbacks;
      require(ae_open(argv[1], &options, &engine.handle) == AE_OK, "open");
      ae_image image = {};
      image.size = sizeof image;
      require(ae_sample(engine.handle, nullptr, &image) == (fails ? AE_ENGINE : AE_OK), "the outer sample goes on");
      require((image.data == nullptr) == fails && engine.calls == (fails ? 1 : 10), "its result");
      require(closes || fails || ae_message(engine.handle)[0] == 0, "no message of a callback's call is left");
      require((engine.released > 0) == closes, "ae_close took effect when ae_sample returned");
      ae_image_free(&image);
      if (!closes) ae_close(engine.handle);
      require(engine.released > 0, "closed");
    }
  }
  std::printf("done\n");
}
