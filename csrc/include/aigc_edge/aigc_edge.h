/* aigc-edge C API, version 1: from a bundle to pixels in four calls, without Python and without torch.

     ae_open   reads and checks a bundle, takes the engine that evaluates its networks
     ae_sample runs a sampling program: noise, solver rows, guidance, conversion to pixels
     ae_image_free, ae_close

   Rules. Every struct begins with its own size (set it to sizeof; a struct that is zero otherwise asks for the defaults), so that
   fields can be added: the library reads and writes no more of a caller's struct than its size. Every call returns a status;
   ae_message tells in one sentence what was given, what is allowed and what to do. There is no global state. A handle serves one
   thread at a time; several handles may be used at once. A handle can be used again after a failed ae_sample. No call ends the
   process and none throws. Callbacks of the engine may not call ae_sample or ae_add_program for the handle that calls them
   (AE_INVALID_ARGUMENT); ae_close there takes effect when ae_sample returns, and the handle is then gone.

   On a GPU (ae_open_options.device) noise, rows, decoder and pixels stay there, the engine queues its networks on the stream that
   it is given, and all rows become one CUDA graph. Pointers in requests and images are of host memory all the same. */
#ifndef AIGC_EDGE_H
#define AIGC_EDGE_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define AE_API
#elif defined(AIGC_EDGE_BUILD)
#define AE_API __attribute__((visibility("default")))
#else
#define AE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t ae_status;
enum {
  AE_OK = 0,
  AE_INVALID_ARGUMENT = 1, /* the caller gave something that is not allowed */
  AE_BUNDLE = 2,           /* the bundle is missing, damaged, of a newer version, or not a bundle */
  AE_UNSUPPORTED = 3,      /* allowed in general, not by this bundle or this build */
  AE_ENGINE = 4,           /* the engine failed, or its network gave a value that is not finite */
  AE_CANCELLED = 5,        /* the engine asked to stop */
  AE_OUT_OF_MEMORY = 6,
  AE_INTERNAL = 7
};

typedef int32_t ae_dtype;
enum { AE_UINT8 = 1, AE_INT64 = 2, AE_FLOAT16 = 3, AE_FLOAT32 = 4 };

typedef int32_t ae_device;
enum { AE_CPU = 0, AE_CUDA = 1 };

/* A dense row-major tensor that somebody else owns. */
typedef struct ae_tensor {
  size_t size;
  const char* name; /* as the component calls it */
  ae_dtype dtype;
  int32_t rank;
  const int64_t* shape; /* [rank] */
  void* data;
  ae_device device; /* where the data are */
} ae_tensor;

/* One network evaluation that the runtime asks its engine for. */
typedef struct ae_evaluation {
  size_t size;
  const char* component; /* "denoiser", "decoder", or "schedule": the denoiser's constants for one timestep */
  const char* format;    /* the format the bundle was opened with, such as "fp32"; the schedule has one of its own */
  uint64_t binding;      /* equal numbers mean equal buffers and shapes: what was prepared for them may be kept. On a GPU each
                            row has one of its own: some inputs lie elsewhere, and rows that guidance doubles have another batch */
  int32_t row; /* 0 … num_rows - 1, once for each tile; the decoder's evaluations have row = num_rows, the schedule's -1 */
  int32_t num_rows;
  size_t num_inputs;
  size_t num_outputs;
  const ae_tensor* const* inputs;  /* [num_inputs]: all in the manifest; a network may take some, by name ("onnx_inputs" there) */
  const ae_tensor* const* outputs; /* [num_outputs]: to be filled */
  void* stream;                    /* the cudaStream_t to queue on, for tensors on a GPU; null on the CPU, as for the schedule */
} ae_evaluation;

/* What queues a captured loop again on the stream that it was captured on; filled by ae_engine.capture. `launch` reports failures
   as `evaluate` does; `release` may be null. */
typedef struct ae_replay {
  size_t size;
  void* user;
  ae_status (*launch)(void* user, char* message, size_t capacity);
  void (*release)(void* user);
} ae_replay;

/* A loop to be captured: `work` queues all rows once, whose evaluations had the same bindings before. It reports failures as
   `evaluate` does. */
typedef struct ae_capture {
  size_t size;
  int64_t batch; /* of the largest evaluation */
  void* stream;
  ae_status (*work)(void* context, char* message, size_t capacity);
  void* context;
} ae_capture;

/* Evaluates networks for the runtime. On failure `evaluate` writes a sentence of at most `capacity` bytes, the closing zero
   included, and returns a status other than AE_OK; ae_sample then stops with that status and message. */
typedef struct ae_engine {
  size_t size;
  void* user;
  ae_status (*evaluate)(void* user, const ae_evaluation* evaluation, char* message, size_t capacity);
  void (*release)(void* user, uint64_t binding); /* may be null: the buffers of `binding` are about to go; on a
                                                    GPU also of one that was never evaluated */
  /* May be null: on a GPU the runtime then captures what `evaluate` queues with cudaStreamBeginCapture. An engine whose memory
     must know of captures brings its own. AE_UNSUPPORTED: its evaluations cannot be captured, the message says why; with any
     other failure but AE_CANCELLED too the loop runs row by row from then on. */
  ae_status (*capture)(void* user, const ae_capture* capture, ae_replay* replay, char* message, size_t capacity);
} ae_engine;

/* Where buffers come from. `device` is the ordinal of the GPU, `stream` what its memory is used on; null means that memory ran
   out. Host memory is aligned to 64 bytes, a GPU's to 256. */
typedef struct ae_allocator {
  size_t size;
  void* user;
  void* (*allocate)(void* user, size_t bytes, int32_t device, void* stream);
  void (*free)(void* user, void* data, int32_t device, void* stream);
} ae_allocator;

typedef int32_t ae_verify;
enum {
  AE_VERIFY_USED = 0, /* hash the files of the chosen format at open, every other file when it is asked for */
  AE_VERIFY_ALL = 1,
  AE_VERIFY_NONE = 2 /* trust the files: sizes are still compared */
};

typedef struct ae_open_options {
  size_t size;
  const ae_engine* engine; /* copied; null: programs can be read, not sampled */
  const char* format;      /* null: the bundle's default */
  int32_t num_threads;     /* of the runtime's own loops; 0: 1 */
  int32_t max_batch;       /* samples evaluated at once; larger counts run in turn, with the same result; 0: 32 */
  ae_verify verify;
  const int32_t* image_size; /* [2], height and width: one of the manifest's "sizes", or with tiles a larger one; null: the
                                first, or the only one */
  ae_device device; /* where the loop runs; AE_CUDA: on the calling thread's current GPU. AE_UNSUPPORTED where there is none */
  void* stream;     /* a cudaStream_t other than the default one, for AE_CUDA; null: the handle's own */
  const ae_allocator* allocator; /* copied; of the buffers on `device` (images and the schedule's tensors apart); null:
                                    the library's own */
  /* Networks on overlapping tiles of the image, whose outputs are blended; null: on the whole. */
  const int32_t* tile;           /* [2], height and width in pixels: of the decoder, which then needs less memory */
  const int32_t* denoising_tile; /* [2], one of the manifest's "sizes": of the denoiser, whose outputs are averaged in every row
                                    (MultiDiffusion, arXiv 2302.08113), so that image_size may be any larger one; images differ
                                    from those without */
  const int32_t* overlap;        /* of both, in pixels; null: a quarter of `tile`, or up to half of it where twice the manifest's
                                    "receptive_field" is more, and half of `denoising_tile` */
} ae_open_options;

typedef struct ae_handle ae_handle;

/* Opens the bundle (a folder, or one uncompressed zip). `*handle` is set on failure too, so that ae_message can tell why; close
   it either way. It is null only when memory ran out or an argument was null. */
AE_API ae_status ae_open(const char* path, const ae_open_options* options, ae_handle** handle);
AE_API void ae_close(ae_handle* handle); /* null is allowed */

/* Why the last call on this handle failed, in a sentence; "" when it succeeded. Valid until the next call on the handle. */
AE_API const char* ae_message(const ae_handle* handle);

/* The bundle's manifest (JSON, UTF-8) as it stands in the bundle; valid until ae_close. Null when the handle did not open. In a
   bundle of several image sizes shapes hold "H" and "W", or parts of them such as "H/8", of the size that was opened. */
AE_API const char* ae_manifest(const ae_handle* handle);

/* A copy of a file of the bundle in memory, checked against the manifest's hash; valid until ae_close, whatever happens to the
   file. With null for both `data` and `bytes` the file is only checked, piece by piece, and takes no memory. */
AE_API ae_status ae_file(ae_handle* handle, const char* name, const void** data, size_t* bytes);

/* Adds a sampling program (JSON, the schema of the manifest's programs) to this handle; one of the same name is replaced. */
AE_API ae_status ae_add_program(ae_handle* handle, const char* json, size_t length);

typedef int32_t ae_output;
enum {
  AE_OUTPUT_RGB8 = 0,   /* uint8 [count, height, width, channels] */
  AE_OUTPUT_FLOAT32 = 1 /* float32 [count, channels, height, width], in the bundle's output range, not clamped */
};

typedef struct ae_sample_options {
  size_t size;
  const char* program; /* null: the bundle's default program */
  int32_t count;       /* how many samples; 0: 1 */
  ae_output output;
  uint64_t seed;                   /* sample i is drawn from seed + i … */
  const uint64_t* seeds;           /* … or from seeds[i], [count] */
  const int32_t* classes;          /* [count]; -1: unconditional; null: drawn from each sample's seed */
  const float* guidance_scale;     /* null: the program's own; 1: no guidance */
  const float* latents;            /* float32 [count, sample shape], instead of noise from the seeds: unit normal, for programs
                                      without rows as the manifest's "calibration" says; may be null */
  const int32_t* negative_classes; /* [count] what guidance leads away from; null: no class */
  const float* guidance_rescale;   /* 0 … 1; null: the program's own */
  const float* noise;              /* float32 [draws, count, sample shape]: what the rows add, in their order, instead of noise
                                      from the seeds; may be null */
  size_t num_draws;                /* of `noise`: as many as the program has rows' noises that are not zero */
  const float* mask;               /* float32 [count, sample shape], 1 where the sample is generated and 0 where … */
  const float* known;              /* … it is this one, float32 [count, sample shape]; both or neither */
  const float* known_noise;        /* float32 [count, sample shape] that brings it to a row's noise level; null: the latents */
  /* What the denoiser's inputs of the role condition take (what text encoders make of a prompt, or the caller's own), each by its
     name, float32 [count, ...] or, where all samples share it, [1, ...]; the data are read, not written. The negative ones are
     what guidance leads away from: needed when a row's guidance weight is not 1, unless the network takes that as a number. */
  const ae_tensor* const* conditions; /* [num_conditions] */
  size_t num_conditions;
  const ae_tensor* const* negative_conditions; /* [num_negative_conditions] */
  size_t num_negative_conditions;
  int32_t row_by_row; /* 1: call the engine for every row, for the sake of progress; 0: replay them as a CUDA graph if possible */
} ae_sample_options;

typedef struct ae_image {
  size_t size;
  int32_t count, height, width, channels;
  ae_output output;
  void* data;
  size_t bytes;
} ae_image;

/* Draws samples. Sample i depends on its seed, its class and the program alone: it is the same whatever the count, the batch and
   the number of threads are. On failure `image` stays empty.

   On a GPU, which must be the calling thread's current one, the first loop of a program, batch size and guidance (with or without
   `noise` and `mask`) runs row by row; the second is captured too, and compared with its replay; later ones are replays. Loops of
   more than 500 rows are not captured, and at most 8 are kept. */
AE_API ae_status ae_sample(ae_handle* handle, const ae_sample_options* options, ae_image* image);
/* Refuses options that ae_sample would refuse, without sampling. */
AE_API ae_status ae_check(ae_handle* handle, const ae_sample_options* options);
AE_API void ae_image_free(ae_image* image); /* null or empty is allowed */

typedef struct ae_statistics {
  size_t size;
  int64_t evaluations;    /* network evaluations of the last ae_sample */
  double total_seconds;   /* of the last ae_sample, wall clock */
  double network_seconds; /* spent inside the engine; on a GPU what it takes to queue */
  int32_t captured;       /* 1: the last loop was one CUDA graph */
  const char* reason;     /* why it was not, or null; valid until the next call on the handle */
} ae_statistics;

AE_API ae_status ae_stats(const ae_handle* handle, ae_statistics* statistics);

#ifdef __cplusplus
}
#endif
#endif
