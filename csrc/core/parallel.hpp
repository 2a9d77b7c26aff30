// Fork and join over chunks of work. The chunks never depend on the number of threads, so neither do results.
#pragma once

#include <cstdint>
#include <type_traits>

namespace ae {

namespace detail {
using ChunkFunction = void (*)(void* context, int64_t chunk);
void run_on_pool(int64_t chunks, int threads, ChunkFunction function, void* context);
}  // namespace detail

// Calls f(chunk) for chunk = 0 … chunks - 1, each once, on up to `threads` threads of which the caller is one; returns when all
// are done. With one thread or one chunk it calls directly: no allocation, no lock. Threads are kept parked between calls and
// shared by the process; a call that finds them busy (another handle, a nested call) runs alone instead of waiting. The first
// exception that f throws is thrown here, after the other threads have stopped; chunks that nobody had begun are then left out.
template <class F>
void parallel_for(int64_t chunks, int threads, F&& f) {
  if (threads <= 1 || chunks <= 1) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) f(chunk);
    return;
  }
  using Function = std::remove_reference_t<F>;
  detail::run_on_pool(
      chunks, threads, [](void* context, int64_t chunk) { (*static_cast<Function*>(context))(chunk); },
      const_cast<void*>(static_cast<const void*>(&f)));
}

}  // namespace ae
