// How a test records what the emulated GPU does, by ctypes: between `emulation_record(f)` and `emulation_record(null)` f is
// called with the number of each operation, and `emulation_repeat(number)` does it again.
#include "core/cuda.cuh"

extern "C" {
__attribute__((visibility("default"))) void emulation_record(void (*recorder)(int64_t)) {
  emulation::machine().recorder = recorder;
}
__attribute__((visibility("default"))) void emulation_repeat(int64_t number) {
  const auto work = emulation::machine().recorded[static_cast<size_t>(number)];
  work();
}
}
