/* Opens every path given, reads and samples from what opens; the sanitizers stop it at the first wrong access. Prints "opened
 * refused sampled conditioned". */
#include <aigc_edge/aigc_edge.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

static ae_status evaluate(void* user, const ae_evaluation* e, char* message, size_t capacity) {
  size_t values = 1;
  int32_t k;
  (void)user;
  (void)message;
  (void)capacity;
  for (k = 0; k < e->outputs[0]->rank; ++k) values *= (size_t)e->outputs[0]->shape[k];
  memset(e->outputs[0]->data, 0, values * sizeof(float));
  return AE_OK;
}

int main(int argc, char** argv) {
  /* what the bundles of the kind "text" take; others refuse it */
  static float text[12], pooled[2], other[24];
  static const int64_t text_shape[] = {1, 4, 3}, pooled_shape[] = {1, 2}, other_shape[] = {2, 4, 3};
  const ae_tensor tensors[] = {{sizeof(ae_tensor), "text", AE_FLOAT32, 3, text_shape, text, AE_CPU},
                               {sizeof(ae_tensor), "pooled", AE_FLOAT32, 2, pooled_shape, pooled, AE_CPU},
                               {sizeof(ae_tensor), "text", AE_FLOAT32, 3, other_shape, other, AE_CPU}};
  const ae_tensor* const own[] = {&tensors[0], &tensors[1]};
  const ae_tensor* const negative[] = {&tensors[1], &tensors[2]};
  int i, opened = 0, refused = 0, sampled = 0, conditioned = 0;
  for (i = 1; i < argc; ++i) {
    ae_engine engine = {sizeof engine, NULL, evaluate, NULL};
    ae_open_options options = {sizeof options};
    ae_sample_options request = {sizeof request};
    ae_image image = {sizeof image};
    ae_handle* handle = NULL;
    options.engine = &engine;
    options.verify = AE_VERIFY_ALL;
    if (ae_open(argv[i], &options, &handle) == AE_OK) {
      const void* data = NULL;
      size_t bytes = 0;
      ++opened;
      ae_file(handle, "net.onnx", &data, &bytes);
      request.count = 2;
      request.size = offsetof(ae_sample_options, conditions); /* of a caller that was compiled before there were any */
      request.conditions = own;
      request.num_conditions = (size_t)-1;
      if (ae_sample(handle, &request, &image) == AE_OK) ++sampled;
      ae_image_free(&image);
      request.size = sizeof request;
      request.conditions = own;
      request.negative_conditions = negative;
      request.num_conditions = request.num_negative_conditions = 2;
      if (ae_sample(handle, &request, &image) == AE_OK) ++conditioned;
      ae_image_free(&image);
    } else {
      ++refused;
      if (ae_message(handle)[0] == 0) return 3; /* refused without a reason */
    }
    ae_close(handle);
  }
  printf("%d %d %d %d\n", opened, refused, sampled, conditioned);
  return 0;
}
