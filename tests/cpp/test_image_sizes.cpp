// ae_sample and an ae_image of a caller that was compiled against an older header (a smaller struct) or a newer one (a larger
// struct): what lies beyond the caller's struct is never touched. Takes the path of a bundle.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "aigc_edge/aigc_edge.h"

namespace {

int failures = 0;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "failed: %s\n", what);
  ++failures;
}

ae_status evaluate(void*, const ae_evaluation* e, char*, size_t) {
  size_t elements = 1;
  for (int i = 0; i < e->outputs[0]->rank; ++i) elements *= static_cast<size_t>(e->outputs[0]->shape[i]);
  std::memset(e->outputs[0]->data, 0, elements * sizeof(float));
  return AE_OK;
}

// An ae_image with room behind it, all of which is filled with `byte` but for the image itself.
struct Room {
  ae_image image = {};
  unsigned char behind[64];

  Room(size_t size, unsigned char byte) {
    image.size = size;
    std::memset(behind, byte, sizeof behind);
  }
};

bool all(const void* data, size_t count, unsigned char byte) {
  for (size_t i = 0; i < count; ++i)
    if (static_cast<const unsigned char*>(data)[i] != byte) return false;
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  ae_engine engine = {};
  engine.size = sizeof engine;
  engine.evaluate = evaluate;
  ae_open_options options = {};
  options.size = sizeof options;
  options.engine = &engine;
  ae_handle* handle = nullptr;
  if (ae_open(argv[1], &options, &handle) != AE_OK) return std::fprintf(stderr, "%s\n", ae_message(handle)), 1;
  ae_sample_options request = {};
  request.size = sizeof request;
  request.count = 2;

  Room usual(sizeof(ae_image), 0xAB);
  require(ae_sample(handle, &request, &usual.image) == AE_OK, "the size of this header");
  require(usual.image.data != nullptr && usual.image.bytes > 0 && usual.image.count == 2, "what an image holds");

  // Older: without the last field.
  Room older(offsetof(ae_image, bytes), 0xAB);
  std::memset(&older.image.bytes, 0xAB, sizeof older.image.bytes);
  require(ae_sample(handle, &request, &older.image) == AE_OK, "an older, smaller image");
  require(older.image.size == offsetof(ae_image, bytes), "its size stays the caller's");
  require(older.image.data != nullptr && std::memcmp(older.image.data, usual.image.data, usual.image.bytes) == 0, "its pixels");
  require(all(&older.image.bytes, sizeof older.image.bytes, 0xAB), "what lies behind a smaller image is not written");
  ae_image_free(&older.image);
  require(older.image.data == nullptr && older.image.size == offsetof(ae_image, bytes), "a smaller image is freed");
  require(all(&older.image.bytes, sizeof older.image.bytes, 0xAB), "freeing a smaller image writes nothing behind it");

  // Newer: fields that this version does not know, zero by default.
  Room newer(sizeof(ae_image) + 32, 0);
  std::memset(newer.behind + 32, 0xAB, 32);
  require(ae_sample(handle, &request, &newer.image) == AE_OK, "a newer, larger image");
  require(newer.image.size == sizeof(ae_image) + 32 && newer.image.bytes == usual.image.bytes, "what it holds");
  require(all(newer.behind, 32, 0) && all(newer.behind + 32, 32, 0xAB), "unknown fields stay zero");
  ae_image_free(&newer.image);
  require(newer.image.data == nullptr && newer.image.size == sizeof(ae_image) + 32, "a larger image is freed");
  newer.behind[5] = 1;
  require(ae_sample(handle, &request, &newer.image) == AE_UNSUPPORTED, "an unknown field that asks for something");
  require(newer.image.data == nullptr, "a refused image stays empty");

  // Too small to hold the data, or no size at all.
  for (const size_t size : {size_t{0}, size_t{1}, sizeof(size_t), offsetof(ae_image, data), size_t{5000}}) {
    Room bad(size, 0xAB);
    require(ae_sample(handle, &request, &bad.image) == AE_INVALID_ARGUMENT, "a size that cannot be right");
    require(std::strstr(ae_message(handle), "ae_image") != nullptr, "the message names the struct");
    require(bad.image.size == size && bad.image.data == nullptr && all(bad.behind, sizeof bad.behind, 0xAB),
            "nothing is written");
    ae_image_free(&bad.image);
  }
  require(ae_sample(handle, &request, &older.image) == AE_OK, "the handle can be used after a refusal");
  ae_image_free(&older.image);
  ae_image_free(&usual.image);
  ae_close(handle);
  if (failures == 0) std::printf("done\n");
  return failures;
}
