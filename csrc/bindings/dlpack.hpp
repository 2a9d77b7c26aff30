// The part of DLPack 1.x's binary interface that is used here, so that no framework's header is needed.
// https://dmlc.github.io/dlpack/latest/c_api.html
#pragma once

#include <cstdint>

namespace ae::dlpack {

struct Version {
  uint32_t major, minor;
};

enum DeviceType : int32_t { kCpu = 1, kCuda = 2, kCudaHost = 3, kCudaManaged = 13 };
enum TypeCode : uint8_t { kInt = 0, kUint = 1, kFloat = 2, kBfloat = 4, kBool = 6 };

struct Tensor {  // DLTensor
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};

constexpr uint64_t kReadOnly = 1;

struct ManagedVersioned {  // DLManagedTensorVersioned
  Version version;
  void* context;
  void (*deleter)(ManagedVersioned*);
  uint64_t flags;
  Tensor tensor;
};

// DLPackExchangeAPI: the table that a tensor type offers as `__dlpack_c_exchange_api__`.
struct Exchange {
  Version version;
  Exchange* previous;
  void* allocate;
  void* managed_from_object;
  void* managed_to_object;
  int (*tensor_from_object)(void* object, Tensor* out);  // borrowed: valid as long as the object; may be null
  int (*current_stream)(int32_t device_type, int32_t device_id, void** out);
};

}  // namespace ae::dlpack
