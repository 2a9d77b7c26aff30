/* An app without Python: opens a bundle, evaluates its network in a callback, writes the pixels to standard output. */
#include <aigc_edge/aigc_edge.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int evaluations, releases;

/* output = sample / 2 + class / 10; fails in row 1 when the user asks for it. */
static ae_status evaluate(void* user, const ae_evaluation* e, char* message, size_t capacity) {
  const float* sample = NULL;
  const int64_t* classes = NULL;
  size_t i, k, per_sample = 1;
  float* out = e->outputs[0]->data;
  if (*(int*)user && e->row == 1) {
    snprintf(message, capacity, "the app has no network for row %d of %d", e->row, e->num_rows);
    return AE_ENGINE;
  }
  for (i = 0; i < e->num_inputs; ++i) {
    if (!strcmp(e->inputs[i]->name, "sample")) sample = e->inputs[i]->data;
    if (!strcmp(e->inputs[i]->name, "class_labels")) classes = e->inputs[i]->data;
  }
  for (i = 1; i < (size_t)e->outputs[0]->rank; ++i) per_sample *= (size_t)e->outputs[0]->shape[i];
  for (i = 0; i < (size_t)e->outputs[0]->shape[0]; ++i)
    for (k = 0; k < per_sample; ++k) out[i * per_sample + k] = sample[i * per_sample + k] / 2 + (float)classes[i] / 10;
  ++evaluations;
  return AE_OK;
}

static void release(void* user, uint64_t binding) {
  (void)user;
  (void)binding;
  ++releases;
}

static int fail(const char* what, ae_handle* handle) {
  fprintf(stderr, "%s: %s\n", what, ae_message(handle));
  ae_close(handle);
  return 1;
}

int main(int argc, char** argv) {
  ae_handle* handle = NULL;
  int broken = 0;
  int32_t classes[3] = {0, 3, -1};
  ae_engine engine = {sizeof engine, &broken, evaluate, release};
  ae_open_options options = {sizeof options};
  ae_sample_options request = {sizeof request};
  ae_image image = {sizeof image};
  if (argc != 2) return 2;
  options.engine = &engine;
  if (ae_open("there is nothing here", &options, &handle) != AE_BUNDLE || !strstr(ae_message(handle), "no bundle at"))
    return fail("open of nothing", handle);
  ae_close(handle);
  {
    const int32_t other[2] = {64, 64}, own[2] = {3, 5};
    options.image_size = other;
    if (ae_open(argv[1], &options, &handle) != AE_INVALID_ARGUMENT || !strstr(ae_message(handle), "no size 64x64"))
      return fail("unknown size", handle);
    ae_close(handle);
    options.size = offsetof(ae_open_options, image_size); /* a caller that is older than the field */
    if (ae_open(argv[1], &options, &handle) != AE_OK) return fail("open with an older struct", handle);
    ae_close(handle);
    options.size = sizeof options;
    options.image_size = own;
  }
  if (ae_open(argv[1], &options, &handle) != AE_OK) return fail("open", handle);

  request.count = 3;
  request.seed = 42;
  request.classes = classes;
  broken = 1;
  if (ae_sample(handle, &request, &image) != AE_ENGINE || image.data != NULL || !strstr(ae_message(handle), "row 1 of 6"))
    return fail("failing engine", handle);
  broken = 0;
  request.count = -1;
  if (ae_sample(handle, &request, &image) != AE_INVALID_ARGUMENT || !strstr(ae_message(handle), "at least 1"))
    return fail("negative count", handle);
  request.count = 3;
  request.program = "no such program";
  if (ae_sample(handle, &request, &image) != AE_INVALID_ARGUMENT) return fail("unknown program", handle);
  request.program = NULL;
  request.size = sizeof(size_t) - 1;
  if (ae_sample(handle, &request, &image) != AE_INVALID_ARGUMENT) return fail("absurd struct size", handle);
  request.size = sizeof request;
  image.size = 0;
  if (ae_sample(handle, &request, &image) != AE_INVALID_ARGUMENT) return fail("image without a size", handle);
  image.size = sizeof image;

  evaluations = 0;
  if (ae_sample(handle, &request, &image) != AE_OK) return fail("sample", handle);
  {
    ae_statistics statistics = {sizeof statistics};
    if (ae_stats(handle, &statistics) != AE_OK || statistics.evaluations != evaluations || evaluations != 6)
      return fail("statistics", handle);
  }
  fwrite(image.data, 1, image.bytes, stdout);
  ae_image_free(&image);
  ae_image_free(&image); /* empty now */
  ae_close(handle);
  if (releases == 0) return 3;
  return 0;
}
