// A regular file that is open for reading.
#pragma once

#include <sys/stat.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace ae {

// Files are read and never mapped. A mapping kills the process (SIGBUS) when somebody else shortens the file or the disk fails,
// and its bytes can change after they were checked; a copy turns the former into an Error and excludes the latter.
class File {
 public:
  explicit File(std::string path);  // throws Error(kBundle) unless it is a regular file; does not wait at a FIFO
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  uint64_t size() const { return static_cast<uint64_t>(status_.st_size); }  // when it was opened
  // Copies `bytes` bytes from `offset` on. Throws Error(kBundle) when the file ends before them or cannot be read.
  void read(uint64_t offset, void* to, size_t bytes) const;
  std::string text(uint64_t offset, size_t bytes) const;

  // Which file it is and when it was last written to; equal states mean equal contents.
  using State = std::array<int64_t, 7>;
  State state() const;

 private:
  std::string path_;
  int descriptor_;
  struct stat status_ = {};
};

}  // namespace ae
