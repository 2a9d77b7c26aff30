/* Opens every path given, reads and samples from what opens; the sanitizers stop it at the first wrong access. Prints "opened
 * refused". */
#include <aigc_edge/aigc_edge.h>
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
  int i, opened = 0, refused = 0;
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
      ae_sample(handle, &request, &image);
      ae_image_free(&image);
    } else {
      ++refused;
      if (ae_message(handle)[0] == 0) return 3; /* refused without a reason */
    }
    ae_close(handle);
  }
  printf("%d %d\n", opened, refused);
  return 0;
}
