// The native loop allocates nothing between the first and the last evaluation: every allocation of the program is counted, and
// the engine looks at the count whenever it is called. Takes the path of a bundle, or of one whose network takes the condition
// "text" [N, 2, 3] and the word "conditions".
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <new>

#include "aigc_edge/aigc_edge.h"

namespace {

long allocations = 0;
struct Seen {
  int32_t row;
  long allocations;
};
Seen seen[4096];
int count = 0;

}  // namespace

// --wrap sends the library's own calls here; operator new would otherwise stay within libstdc++.
extern "C" {
void* __real_malloc(size_t);
void* __real_aligned_alloc(size_t, size_t);
void* __wrap_malloc(size_t size) {
  ++allocations;
  return __real_malloc(size);
}
void* __wrap_aligned_alloc(size_t alignment, size_t size) {
  ++allocations;
  return __real_aligned_alloc(alignment, size);
}
}
void* operator new(size_t size) {
  ++allocations;
  if (void* const memory = __real_malloc(size)) return memory;
  throw std::bad_alloc();
}
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"  // what it warns of is how operator new works here
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace {

ae_status evaluate(void*, const ae_evaluation* e, char*, size_t) {
  seen[count++] = {e->row, allocations};
  size_t elements = 1;
  for (int i = 0; i < e->outputs[0]->rank; ++i) elements *= static_cast<size_t>(e->outputs[0]->shape[i]);
  std::memset(e->outputs[0]->data, 0, elements * sizeof(float));
  return AE_OK;
}

int fail(const char* what, const char* detail) {
  std::fprintf(stderr, "%s: %s\n", what, detail);
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 && argc != 3) return fail("usage", "test_loop_allocations BUNDLE [conditions]");
  float values[3 * 2 * 3] = {};
  int64_t shape[] = {1, 2, 3};
  const ae_tensor text = {sizeof(ae_tensor), "text", AE_FLOAT32, 3, shape, values, AE_CPU};
  const ae_tensor* const conditions[] = {&text};
  ae_engine engine = {};
  engine.size = sizeof engine;
  engine.evaluate = evaluate;
  ae_open_options options = {};
  options.size = sizeof options;
  options.engine = &engine;
  ae_handle* handle = nullptr;
  if (ae_open(argv[1], &options, &handle) != AE_OK) return fail("open", ae_message(handle));
  const char* const programs[] = {nullptr, "euler_ancestral-20", "heun-20"};
  for (const char* program : programs) {
    for (int n : {1, 3}) {
      count = 0;
      ae_sample_options request = {};
      request.size = sizeof request;
      request.program = program;
      request.count = n;
      if (argc == 3) {
        shape[0] = n;
        request.conditions = request.negative_conditions = conditions;
        request.num_conditions = request.num_negative_conditions = 1;
      }
      ae_image image = {};
      image.size = sizeof image;
      if (ae_sample(handle, &request, &image) != AE_OK) return fail("sample", ae_message(handle));
      ae_image_free(&image);
      if (count < 10) return fail("evaluations", "fewer than 10");
      for (int i = 1; i < count; ++i) {
        if (seen[i].allocations != seen[0].allocations) return fail("allocations", "the loop allocated memory between two rows");
      }
    }
  }
  const long before = allocations;
  ::operator delete(::operator new(8));
  if (allocations != before + 1) return fail("counting", "an allocation was not seen");
  ae_close(handle);
  std::printf("done\n");
}
