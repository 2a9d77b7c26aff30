#include "runtime/storage.hpp"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>
#include <vector>

#include "core/error.hpp"
#include "core/json.hpp"
#include "core/sha256.hpp"
#include "core/zip.hpp"

namespace ae {
namespace {

constexpr size_t kPiece = 1 << 18;  // bytes; fits into a cache
constexpr int kMostOpen = 32;       // files of a folder that stay open: a process may have few descriptors

// Renames what an interrupted replacement of `path` left as ".<name>.<random>.old", the latest, to `path` where nothing is
// there, as aigc_edge/files.py does.
void recover(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  struct stat status = {};
  if (lstat(path.c_str(), &status) == 0 || errno != ENOENT) return;
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "./" : path.substr(0, slash + 1);
  const std::string start = "." + path.substr(slash == std::string::npos ? 0 : slash + 1) + ".", end = ".old";
  std::string latest;
  struct timespec time = {};
  DIR* entries = opendir(folder.c_str());
  if (entries == nullptr) return;
  while (const dirent* entry = readdir(entries)) {
    const std::string name = entry->d_name;
    if (name.size() <= start.size() + end.size() || name.compare(0, start.size(), start) != 0 ||
        name.compare(name.size() - end.size(), end.size(), end) != 0 || stat((folder + name).c_str(), &status) != 0)
      continue;
    const struct timespec& other = status.st_mtim;
    if (!latest.empty() && (other.tv_sec < time.tv_sec || (other.tv_sec == time.tv_sec && other.tv_nsec <= time.tv_nsec)))
      continue;
    latest = folder + name;
    time = other;
  }
  closedir(entries);
  if (latest.empty()) return;
  // What another process has written there by now stays: a link replaces nothing, nor does a folder that is renamed. When both
  // fail there is nothing at `path`, as before.
  if (link(latest.c_str(), path.c_str()) == 0) {
    unlink(latest.c_str());
  } else if (errno != EEXIST) {
    std::rename(latest.c_str(), path.c_str());
  }
}

}  // namespace

Storage::Storage(std::string path) : path_(std::move(path)) {
  struct stat status = {};
  if (stat(path_.c_str(), &status) != 0) recover(path_);
  if (stat(path_.c_str(), &status) != 0)
    throw Error(kBundle, "there is no bundle at " + path_ + ": give the folder or file that `aigc-edge compile` wrote");
  if (S_ISDIR(status.st_mode)) return;
  archive_ = std::make_unique<File>(path_);
  if (!looks_like_zip(*archive_))
    throw Error(kBundle, path_ + " is not a bundle: a bundle is a folder with a manifest.json, or one uncompressed zip of it");
  for (const auto& entry : list_zip(*archive_, path_)) {
    Member member;
    member.entry.bytes = entry.bytes;
    member.offset = entry.offset;
    if (!files_.emplace(entry.name, std::move(member)).second)
      throw Error(kBundle, path_ + " holds " + entry.name + " twice: it is damaged; copy it again");
  }
}

std::string Storage::text(const char* name, size_t most) const {
  const auto require = [&](uint64_t bytes) {
    if (bytes > most)
      throw Error(kBundle, path_ + "/" + name + " has more than " + std::to_string(most) +
                               " bytes, the most that a bundle may have: it is damaged; copy it again or compile it again");
    return static_cast<size_t>(bytes);
  };
  if (archive_) {
    const auto found = files_.find(name);
    if (found == files_.end()) throw Error(kBundle, path_ + " is not a bundle: it holds no " + name);
    return archive_->text(found->second.offset, require(found->second.entry.bytes));
  }
  struct stat status = {};
  if (stat((path_ + "/" + name).c_str(), &status) != 0)
    throw Error(kBundle, path_ + " is not a bundle: it holds no " + name + "; give a folder that `aigc-edge compile` wrote");
  const File file(path_ + "/" + name);
  return file.text(0, require(file.size()));
}

std::string Storage::manifest() const {
  std::string manifest = text("manifest.json", kMaxJsonBytes);
  if (text("manifest.sha256", 1 << 10).substr(0, 64) != sha256_hex(manifest.data(), manifest.size()))
    throw Error(kBundle, path_ +
                             ": manifest.json does not match manifest.sha256: it was cut off or changed after it was written; "
                             "copy the bundle again or compile it again");
  return manifest;
}

void Storage::list(const std::map<std::string, FileEntry>& files) {
  std::map<std::string, Member> listed;
  for (const auto& [name, entry] : files) {
    Member& member = listed[name];
    member.entry = entry;
    if (!archive_) continue;
    const auto found = files_.find(name);
    if (found == files_.end() || found->second.entry.bytes != entry.bytes)
      throw Error(kBundle, path_ + " cannot be used: the file " + name +
                               (found == files_.end() ? " is missing" : " has the wrong size") +
                               "; it is damaged: copy it again or compile it again");
    member.offset = found->second.offset;
  }
  files_ = std::move(listed);
}

Storage::Member& Storage::find(const std::string& name) {
  const auto found = files_.find(name);
  if (found == files_.end()) throw Error(kInvalidArgument, path_ + " has no file " + name + ": see \"files\" in its manifest");
  return found->second;
}

void Storage::load(const std::string& name, Member& member, bool hash, uint8_t* copy) {
  std::unique_ptr<const File> opened;
  const File* open = archive_ ? archive_.get() : member.file.get();
  if (open == nullptr) {
    opened = std::make_unique<const File>(path_ + "/" + name);
    if (opened->size() != member.entry.bytes)
      throw Error(kBundle, path_ + "/" + name + " has " + std::to_string(opened->size()) + " bytes, the manifest says " +
                               std::to_string(member.entry.bytes) +
                               ": it is truncated or of another bundle; copy it again or compile it again");
    open = opened.get();
    if (num_open_ < kMostOpen) {
      member.file = std::move(opened);
      ++num_open_;
    }
  }
  const File& file = *open;
  const File::State state = file.state();
  hash = hash && (copy != nullptr || member.hashed != state);  // what is handed out is what was hashed
  if (!hash && copy == nullptr) return;
  Sha256 sum;
  std::vector<uint8_t> piece(copy == nullptr ? std::min(kPiece, member.entry.bytes) : 0);
  for (size_t at = 0, bytes = 0; at < member.entry.bytes; at += bytes) {
    bytes = std::min(kPiece, member.entry.bytes - at);
    uint8_t* to = copy == nullptr ? piece.data() : copy + at;
    file.read(member.offset + at, to, bytes);
    if (hash) sum.add(to, bytes);
  }
  if (hash && sum.hex() != member.entry.sha256)
    throw Error(kBundle,
                path_ + "/" + name +
                    " does not match its hash in the manifest: it was changed or damaged; copy it again or compile it again");
  if (hash) member.hashed = state;
}

void Storage::check(const std::string& name, bool hash) {
  Member& member = find(name);
  if (!member.data) load(name, member, hash, nullptr);
}

Bytes Storage::read(const std::string& name, bool hash) {
  Member& member = find(name);
  if (!member.data) {
    load(name, member, false, nullptr);  // its size, before memory is taken
    std::unique_ptr<uint8_t[]> data(new uint8_t[member.entry.bytes]);
    load(name, member, hash, data.get());
    member.data = std::move(data);
  }
  return {member.data.get(), member.entry.bytes};
}

}  // namespace ae
