#include "core/zip.hpp"

#include <algorithm>

#include "core/error.hpp"

namespace ae {
namespace {

constexpr uint32_t kEnd = 0x06054b50, kEnd64 = 0x06064b50, kEnd64Locator = 0x07064b50, kCentral = 0x02014b50, kLocal = 0x04034b50;
constexpr uint64_t kMax32 = 0xffffffff, kMax16 = 0xffff, kMaxEntries = 1 << 20;
constexpr uint64_t kWindow = 4096;

class Reader {
 public:
  Reader(const File& file, const std::string& path) : file_(file), path_(path) {}

  [[noreturn]] void fail(const char* why) const {
    throw Error(kBundle, path_ + " is not a bundle that can be read (" + why + "): it is truncated or damaged; copy it again");
  }

  void check(uint64_t at, uint64_t length) const {
    if (at > size() || length > size() - at) fail("it ends too early");
  }

  uint64_t get(uint64_t at, uint64_t width) {
    check(at, width);
    if (at < first_ || at + width > first_ + window_.size()) {  // around `at`: the end record is searched for backwards
      first_ = at - std::min(at, kWindow / 2);
      window_.resize(std::min(kWindow, size() - first_));
      file_.read(first_, window_.data(), window_.size());
    }
    uint64_t value = 0;
    while (width-- > 0) value = value << 8 | window_[at + width - first_];
    return value;
  }

  std::string text(uint64_t at, uint64_t length) const {
    check(at, length);
    return file_.text(at, length);
  }

  uint64_t size() const { return file_.size(); }

 private:
  const File& file_;
  const std::string& path_;
  std::vector<uint8_t> window_;  // the bytes from first_ on
  uint64_t first_ = 0;
};

struct Directory {
  uint64_t offset, entries;
};

Directory find_directory(Reader& r) {
  // The end record is the last 22 bytes unless a comment follows it; a bundle has none, other tools may have added one.
  if (r.size() < 22) r.fail("it is too short");
  const uint64_t lowest = r.size() - std::min<uint64_t>(r.size(), 22 + kMax16);
  for (uint64_t at = r.size() - 22;; --at) {
    if (r.get(at, 4) == kEnd) {
      Directory d = {r.get(at + 16, 4), r.get(at + 10, 2)};
      if ((d.offset == kMax32 || d.entries == kMax16) && at >= 20 && r.get(at - 20, 4) == kEnd64Locator) {
        const uint64_t end64 = r.get(at - 20 + 8, 8);
        if (r.get(end64, 4) != kEnd64) r.fail("its directory is missing");
        d = {r.get(end64 + 48, 8), r.get(end64 + 32, 8)};
      }
      return d;
    }
    if (at == lowest) r.fail("its directory is missing");
  }
}

// Sizes and offsets of 4 GB and more stand in the zip64 field, in this order, each only when its 32-bit field is full.
void read_zip64(Reader& r, uint64_t at, uint64_t end, uint64_t* stored, uint64_t* raw, uint64_t* local) {
  while (at + 4 <= end) {
    const uint64_t tag = r.get(at, 2), length = r.get(at + 2, 2);
    uint64_t field = at + 4;
    if (tag == 1) {
      for (uint64_t* value : {raw, stored, local}) {
        if (*value != kMax32) continue;
        if (field + 8 > at + 4 + length) r.fail("a zip64 field is short");
        *value = r.get(field, 8);
        field += 8;
      }
      return;
    }
    at += 4 + length;
  }
}

}  // namespace

bool looks_like_zip(const File& file) {
  uint8_t data[4] = {};
  file.read(0, data, std::min<uint64_t>(file.size(), sizeof data));
  return data[0] == 'P' && data[1] == 'K' && (data[2] == 3 || data[2] == 5) && data[3] == data[2] + 1;
}

std::vector<ZipEntry> list_zip(const File& file, const std::string& path) {
  Reader r(file, path);
  const Directory directory = find_directory(r);
  if (directory.entries > kMaxEntries) r.fail("it has more than a million entries");
  std::vector<ZipEntry> entries;
  uint64_t at = directory.offset;
  for (uint64_t i = 0; i < directory.entries; ++i) {
    if (r.get(at, 4) != kCentral) r.fail("its directory is damaged");
    const uint64_t name_length = r.get(at + 28, 2), extra = r.get(at + 30, 2), comment = r.get(at + 32, 2);
    uint64_t stored = r.get(at + 20, 4), raw = r.get(at + 24, 4), local = r.get(at + 42, 4);
    const std::string name = r.text(at + 46, name_length);
    read_zip64(r, at + 46 + name_length, at + 46 + name_length + extra, &stored, &raw, &local);
    if ((r.get(at + 8, 2) & 1) != 0 || r.get(at + 10, 2) != 0 || stored != raw)
      throw Error(kBundle,
                  path + " holds " + name +
                      " compressed or encrypted: a packed bundle is an uncompressed zip; unpack it, or make it with --pack");
    if (r.get(local, 4) != kLocal) r.fail("an entry is damaged");
    const uint64_t begin = local + 30 + r.get(local + 26, 2) + r.get(local + 28, 2);
    r.check(begin, raw);
    entries.push_back({name, begin, raw});
    at += 46 + name_length + extra + comment;
  }
  return entries;
}

}  // namespace ae
