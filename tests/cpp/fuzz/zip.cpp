// Any bytes as an archive: every entry lies inside it.
#include "core/zip.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include "core/file.hpp"
#include "fuzz/target.hpp"

namespace {

// A file that is in memory alone.
class MemoryFile {
 public:
  MemoryFile(const uint8_t* data, size_t size) : descriptor_(memfd_create("archive", MFD_CLOEXEC)) {
    AE_REQUIRE(descriptor_ >= 0 && write(descriptor_, data, size) == static_cast<ssize_t>(size));
  }
  ~MemoryFile() { close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const MemoryFile memory(data, size);
  fuzz::read_or_refuse([&] {
    const ae::File file(memory.path());
    AE_REQUIRE(file.size() == size);
    ae::looks_like_zip(file);
    uint64_t sum = 0;
    for (const ae::ZipEntry& entry : ae::list_zip(file, "archive")) {
      AE_REQUIRE(entry.offset <= size && entry.bytes <= size - entry.offset);
      if (entry.bytes < 4096) sum += file.text(entry.offset, entry.bytes).size();
    }
    AE_REQUIRE(sum < uint64_t{1} << 40);
  });
  return 0;
}
