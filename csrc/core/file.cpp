#include "core/file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.hpp"

namespace ae {
namespace {

constexpr size_t kMostAtOnce = size_t{1} << 30;  // one call reads less than 2 GiB

}  // namespace

File::File(std::string path) : path_(std::move(path)) {
  const auto fail = [this](const std::string& why) { throw Error(kBundle, "cannot read " + path_ + ": " + why); };
  // Before it is opened, because opening a device can have effects; and again, because the path may name another file by then.
  if (stat(path_.c_str(), &status_) != 0) fail(std::strerror(errno));
  if (!S_ISREG(status_.st_mode)) fail("it is not a regular file");
  do descriptor_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  while (descriptor_ < 0 && errno == EINTR);
  if (descriptor_ < 0) fail(std::strerror(errno));
  if (fstat(descriptor_, &status_) == 0 && S_ISREG(status_.st_mode)) return;
  close(descriptor_);
  fail("it is not a regular file");
}

File::~File() { close(descriptor_); }

void File::read(uint64_t offset, void* to, size_t bytes) const {
  auto* at = static_cast<char*>(to);
  while (bytes > 0) {
    const ssize_t count = pread(descriptor_, at, std::min(bytes, kMostAtOnce), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw Error(kBundle, "cannot read " + path_ + ": " + std::strerror(errno));
    if (count == 0)
      throw Error(kBundle,
                  path_ + " ends too early: it was shortened while it was open; copy the bundle again or compile it again");
    at += count;
    bytes -= static_cast<size_t>(count);
    offset += static_cast<uint64_t>(count);
  }
}

std::string File::text(uint64_t offset, size_t bytes) const {
  std::string text(bytes, '\0');
  read(offset, text.data(), bytes);
  return text;
}

File::State File::state() const {
  struct stat now = {};
  if (fstat(descriptor_, &now) != 0) throw Error(kBundle, "cannot read " + path_ + ": " + std::strerror(errno));
  return {static_cast<int64_t>(now.st_dev),
          static_cast<int64_t>(now.st_ino),
          now.st_size,
          now.st_mtim.tv_sec,
          now.st_mtim.tv_nsec,
          now.st_ctim.tv_sec,
          now.st_ctim.tv_nsec};
}

}  // namespace ae
