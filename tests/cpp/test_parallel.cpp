// The fork-join helper: every chunk once, exceptions, nesting, several callers, and a child made by fork.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "core/parallel.hpp"

namespace {

int failures = 0;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "failed: %s\n", what);
  ++failures;
}

bool every_chunk_once(int64_t chunks, int threads) {
  std::vector<std::atomic<int>> seen(static_cast<size_t>(chunks));
  ae::parallel_for(chunks, threads, [&](int64_t chunk) { ++seen[static_cast<size_t>(chunk)]; });
  for (const std::atomic<int>& count : seen) {
    if (count != 1) return false;
  }
  return true;
}

void exceptions() {
  for (const int threads : {1, 3}) {
    std::string what;
    try {
      ae::parallel_for(100, threads, [](int64_t chunk) {
        if (chunk == 7) throw std::runtime_error("seven");
      });
    } catch (const std::runtime_error& error) {
      what = error.what();
    }
    require(what == "seven", "an exception of a chunk reaches the caller");
    require(every_chunk_once(50, threads), "the threads serve again after an exception");
  }
}

void several_callers() {
  std::atomic<int> good{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      for (int round = 0; round < 200; ++round) good += every_chunk_once(17, 3);
    });
  }
  for (std::thread& caller : callers) caller.join();
  require(good == 800, "callers at the same time each get all their chunks");
}

void nested() {
  std::atomic<int> inner{0};
  ae::parallel_for(8, 3, [&](int64_t) { ae::parallel_for(5, 3, [&](int64_t) { ++inner; }); });
  require(inner == 40, "a nested call does all its chunks");
}

void after_fork() {
  const pid_t child = fork();
  if (child == 0) _exit(every_chunk_once(64, 3) ? 0 : 1);
  int status = -1;
  waitpid(child, &status, 0);
  require(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child made by fork can use threads too");
}

}  // namespace

// With any argument the test of fork is left out: an emulated CPU cannot fork beside threads.
int main(int count, char**) {
  for (const int threads : {1, 2, 3, 8}) {
    for (const int64_t chunks : {0, 1, 2, 3, 100}) require(every_chunk_once(chunks, threads), "every chunk is done once");
  }
  exceptions();
  several_callers();
  nested();
  if (count == 1) after_fork();
  std::printf("%s\n", failures ? "failed" : "done");
  return failures ? 1 : 0;
}
