// The C API: no exception crosses it, and every failure leaves its sentence on the handle.
#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include "aigc_edge/aigc_edge.h"
#include "core/error.hpp"
#include "runtime/bundle.hpp"
#include "runtime/sampler.hpp"

struct ae_handle {
  std::unique_ptr<ae::Bundle> bundle;
  std::unique_ptr<ae::Sampler> sampler;
  mutable std::string message;
  bool busy = false;         // the engine's callbacks may be running, which may call us again
  bool close_later = false;  // ae_close was called there
};

namespace {

constexpr int kDefaultMaxBatch = 32;
constexpr size_t kSmallestImage = offsetof(ae_image, data) + sizeof(void*);

// Runs f and turns what it throws into a status and a message.
template <class F>
ae_status guarded(const ae_handle* handle, F&& f) {
  if (handle == nullptr) return AE_INVALID_ARGUMENT;
  try {
    handle->message.clear();
    f();
    handle->message.clear();  // of calls by callbacks
    return AE_OK;
  } catch (const ae::Error& error) {
    handle->message = error.what();
    return error.status;
  } catch (const std::bad_alloc&) {
    handle->message = "memory ran out: draw fewer samples at once, or use a smaller max_batch";
    return AE_OUT_OF_MEMORY;
  } catch (const std::exception& error) {
    handle->message = std::string("internal error: ") + error.what();
    return AE_INTERNAL;
  }
}

// A copy of a caller's struct that may be older (shorter: the new fields keep their defaults) or newer (its unknown fields must
// be zero).
template <class T>
T sized(const T* given, const char* name) {
  T out = {};
  if (given == nullptr) {
    out.size = sizeof(T);
    return out;
  }
  if (given->size < sizeof(size_t) || given->size > 4096)
    throw ae::Error(ae::kInvalidArgument,
                    std::string(name) + ".size is " + std::to_string(given->size) + ": set it to sizeof(" + name + ")");
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  for (size_t i = sizeof(T); i < given->size; ++i)
    if (bytes[i] != 0)
      throw ae::Error(ae::kUnsupported,
                      std::string(name) + " uses fields that this version does not know: install a newer aigc-edge");
  std::memcpy(static_cast<void*>(&out), given, std::min(sizeof(T), given->size));
  out.size = sizeof(T);
  return out;
}

std::unique_ptr<const ae::Memory> memory_of(const ae_open_options& options) {
  if (options.device != AE_CPU && options.device != AE_CUDA)
    throw ae::Error(ae::kInvalidArgument,
                    "the device is " + std::to_string(options.device) + ": it must be one of AE_CPU, AE_CUDA");
  ae::Allocator allocator;
  if (options.allocator != nullptr) {
    const ae_allocator given = sized(options.allocator, "ae_allocator");
    if (given.allocate == nullptr || given.free == nullptr)
      throw ae::Error(ae::kInvalidArgument, "the allocator lacks a function: give allocate and free");
    allocator = {given.user, given.allocate, given.free};
  }
  return std::make_unique<ae::Memory>(options.device == AE_CUDA ? ae::Device::kCuda : ae::Device::kCpu, options.stream,
                                      allocator);
}

ae::Size size_of(const char* name, const int32_t* pair, const char* what) {
  if (pair == nullptr) return {};
  const ae::Size size{pair[0], pair[1]};
  if (size.height < 1 || size.width < 1)
    throw ae::Error(ae::kInvalidArgument, std::string(name) + " is " + ae::size_text(size) + ": give " + what + ", or null");
  return size;
}

void require_open(const ae_handle* handle) {
  if (!handle->bundle || !handle->sampler)
    throw ae::Error(ae::kInvalidArgument, "the bundle of this handle did not open, or is being closed: open another");
}

// Refuses a call by a callback of the ae_sample that runs.
void require_idle(const ae_handle* handle, const char* what) {
  if (handle->busy)
    throw ae::Error(ae::kInvalidArgument,
                    std::string(what) + " was called by an engine of the handle that is calling it: call it afterwards");
}

// Marks the time in which an engine may be called.
class Busy {
 public:
  explicit Busy(ae_handle* handle) : handle_(handle) { handle_->busy = true; }
  ~Busy() { handle_->busy = false; }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;

 private:
  ae_handle* handle_;
};

}  // namespace

ae_status ae_open(const char* path, const ae_open_options* given, ae_handle** out) {
  if (out == nullptr) return AE_INVALID_ARGUMENT;
  *out = nullptr;
  if (path == nullptr) return AE_INVALID_ARGUMENT;
  *out = new (std::nothrow) ae_handle;
  if (*out == nullptr) return AE_OUT_OF_MEMORY;
  return guarded(*out, [&] {
    const ae_open_options options = sized(given, "ae_open_options");
    if (options.num_threads < 0 || options.num_threads > 1024)
      throw ae::Error(ae::kInvalidArgument,
                      "num_threads is " + std::to_string(options.num_threads) + ": it must be 1 to 1024, or 0 for 1");
    if (options.max_batch < 0 || options.max_batch > 1 << 20)
      throw ae::Error(ae::kInvalidArgument, "max_batch is " + std::to_string(options.max_batch) +
                                                ": it must be 1 to 2^20, or 0 for " + std::to_string(kDefaultMaxBatch));
    if (options.verify < AE_VERIFY_USED || options.verify > AE_VERIFY_NONE)
      throw ae::Error(ae::kInvalidArgument, "verify is " + std::to_string(options.verify) +
                                                ": it must be one of AE_VERIFY_USED, AE_VERIFY_ALL, AE_VERIFY_NONE");
    ae::OpenSizes sizes;
    sizes.image = size_of("image_size", options.image_size, "the height and width of an image");
    sizes.tile = size_of("tile", options.tile, "the height and width of the decoder's tiles");
    sizes.denoising_tile = size_of("denoising_tile", options.denoising_tile, "the height and width of the denoiser's tiles");
    if (options.overlap != nullptr && *options.overlap < 0)
      throw ae::Error(ae::kInvalidArgument,
                      "overlap is " + std::to_string(*options.overlap) + ": give 0 or more pixels, or null for the default");
    if (options.overlap != nullptr) sizes.overlap = *options.overlap;
    ae_engine engine = {};
    if (options.engine != nullptr) engine = sized(options.engine, "ae_engine");
    auto bundle = std::make_unique<ae::Bundle>(path, options.format != nullptr ? options.format : "", options.verify, sizes);
    const int max_batch = options.max_batch != 0 ? options.max_batch : kDefaultMaxBatch;
    (*out)->sampler =
        std::make_unique<ae::Sampler>(*bundle, engine, memory_of(options), std::max(options.num_threads, 1), max_batch);
    (*out)->bundle = std::move(bundle);
  });
}

void ae_close(ae_handle* handle) {
  if (handle == nullptr) return;
  handle->close_later = true;
  if (handle->busy) return;
  handle->busy = true;      // the engine's `release` may call us: it is refused, and a second ae_close does nothing
  handle->sampler.reset();  // it releases the engine's bindings while the bundle still stands
  delete handle;
}

namespace {

// Closes a handle whose ae_close was called by a callback.
void close_if_asked(ae_handle* handle) {
  if (handle != nullptr && handle->close_later && !handle->busy) ae_close(handle);
}

}  // namespace

const char* ae_message(const ae_handle* handle) { return handle != nullptr ? handle->message.c_str() : ""; }

const char* ae_manifest(const ae_handle* handle) {
  return handle != nullptr && handle->bundle ? handle->bundle->text().c_str() : nullptr;
}

ae_status ae_file(ae_handle* handle, const char* name, const void** data, size_t* bytes) {
  return guarded(handle, [&] {
    require_open(handle);
    if (name == nullptr || (data == nullptr) != (bytes == nullptr))
      throw ae::Error(
          ae::kInvalidArgument,
          "ae_file was given a null pointer: name is needed, and both data and bytes or neither, to check the file alone");
    if (data == nullptr) return handle->bundle->check(name);
    const ae::Bytes file = handle->bundle->file(name);
    *data = file.data;
    *bytes = file.size;
  });
}

ae_status ae_add_program(ae_handle* handle, const char* json, size_t length) {
  const ae_status status = guarded(handle, [&] {
    require_open(handle);
    require_idle(handle, "ae_add_program");
    if (json == nullptr)
      throw ae::Error(ae::kInvalidArgument, "ae_add_program was given a null pointer: give the program as JSON");
    try {
      const ae::JsonDocument document({json, length}, "program");
      ae::Program program = ae::parse_program(document.root());
      const Busy busy(handle);
      handle->sampler->forget(program.name);
      handle->bundle->add_program(std::move(program));
    } catch (const ae::Error& error) {
      throw ae::Error(ae::kInvalidArgument,
                      std::string("the program cannot be used: ") + error.what() + "; build it with aigc_edge.diffusion.build");
    }
  });
  close_if_asked(handle);
  return status;
}

ae_status ae_sample(ae_handle* handle, const ae_sample_options* given, ae_image* image) {
  const ae_status status = guarded(handle, [&] {
    require_open(handle);
    require_idle(handle, "ae_sample");
    if (image == nullptr) throw ae::Error(ae::kInvalidArgument, "ae_sample was given no image: pass a pointer to an ae_image");
    ae_image result = sized(image, "ae_image");
    if (image->size < kSmallestImage)
      throw ae::Error(ae::kInvalidArgument, "ae_image.size is " + std::to_string(image->size) +
                                                ", which leaves no room for data: " + "set it to sizeof(ae_image)");
    ae_sample_options options = sized(given, "ae_sample_options");
    if (options.count == 0) options.count = 1;
    {
      const Busy busy(handle);
      handle->sampler->sample(options, &result);
    }
    result.size = image->size;
    std::memcpy(image, &result, std::min(sizeof result, image->size));
  });
  close_if_asked(handle);
  return status;
}

ae_status ae_check(ae_handle* handle, const ae_sample_options* given) {
  return guarded(handle, [&] {
    require_open(handle);
    ae_sample_options options = sized(given, "ae_sample_options");
    if (options.count == 0) options.count = 1;
    handle->sampler->check(options);
  });
}

void ae_image_free(ae_image* image) {
  if (image == nullptr || image->size < kSmallestImage) return;
  std::free(image->data);
  ae_image empty = {};
  empty.size = image->size;
  std::memcpy(image, &empty, std::min(sizeof empty, image->size));
}

ae_status ae_stats(const ae_handle* handle, ae_statistics* statistics) {
  return guarded(handle, [&] {
    require_open(handle);
    if (statistics == nullptr)
      throw ae::Error(ae::kInvalidArgument, "ae_stats was given no statistics: pass a pointer to an ae_statistics");
    const size_t size = statistics->size;
    if (size < sizeof(size_t))
      throw ae::Error(ae::kInvalidArgument,
                      "ae_statistics.size is " + std::to_string(size) + ": set it to sizeof(ae_statistics)");
    ae_statistics current = handle->sampler->statistics();
    current.size = size;
    std::memcpy(statistics, &current, std::min(size, sizeof current));
  });
}
