// A whole file, mapped for reading.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace ae {

class MappedFile {
 public:
  explicit MappedFile(const std::string& path);  // throws Error(kBundle) when the file cannot be read
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const uint8_t* data() const { return data_; }  // [size]
  size_t size() const { return size_; }

  // Gives the memory of a part back, which is read from the file again when it is needed.
  static void release(const uint8_t* data, size_t bytes);

 private:
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace ae
