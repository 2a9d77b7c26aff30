#include "runtime/storage.hpp"

#include <sys/stat.h>

#include <utility>

#include "core/error.hpp"
#include "core/sha256.hpp"
#include "core/zip.hpp"

namespace ae {

Storage::Storage(std::string path) : path_(std::move(path)) {
  struct stat status = {};
  if (stat(path_.c_str(), &status) != 0)
    throw Error(kBundle, "there is no bundle at " + path_ + ": give the folder or file that `aigc-edge compile` wrote");
  if (S_ISDIR(status.st_mode)) return;
  archive_ = std::make_unique<MappedFile>(path_);
  if (!looks_like_zip(archive_->data(), archive_->size()))
    throw Error(kBundle, path_ + " is not a bundle: a bundle is a folder with a manifest.json, or one uncompressed zip of it");
  for (const auto& entry : list_zip(archive_->data(), archive_->size(), path_)) {
    File file;
    file.entry.bytes = entry.bytes;
    file.offset = entry.offset;
    if (!files_.emplace(entry.name, std::move(file)).second)
      throw Error(kBundle, path_ + " holds " + entry.name + " twice: it is damaged; copy it again");
  }
}

std::string Storage::text(const char* name) const {
  if (archive_) {
    const auto found = files_.find(name);
    if (found == files_.end()) throw Error(kBundle, path_ + " is not a bundle: it holds no " + name);
    return std::string(reinterpret_cast<const char*>(archive_->data() + found->second.offset), found->second.entry.bytes);
  }
  struct stat status = {};
  if (stat((path_ + "/" + name).c_str(), &status) != 0)
    throw Error(kBundle, path_ + " is not a bundle: it holds no " + name + "; give a folder that `aigc-edge compile` wrote");
  const MappedFile file(path_ + "/" + name);
  return std::string(reinterpret_cast<const char*>(file.data()), file.size());
}

std::string Storage::manifest() const {
  std::string manifest = text("manifest.json");
  if (text("manifest.sha256").substr(0, 64) != sha256_hex(manifest.data(), manifest.size()))
    throw Error(kBundle, path_ +
                             ": manifest.json does not match manifest.sha256: it was cut off or changed after it was written; "
                             "copy the bundle again or compile it again");
  return manifest;
}

void Storage::list(const std::map<std::string, FileEntry>& files) {
  std::map<std::string, File> listed;
  for (const auto& [name, entry] : files) {
    File& file = listed[name];
    file.entry = entry;
    if (!archive_) continue;
    const auto found = files_.find(name);
    if (found == files_.end() || found->second.entry.bytes != entry.bytes)
      throw Error(kBundle, path_ + " cannot be used: the file " + name +
                               (found == files_.end() ? " is missing" : " has the wrong size") +
                               "; it is damaged: copy it again or compile it again");
    file.offset = found->second.offset;
  }
  files_ = std::move(listed);
}

Bytes Storage::read(const std::string& name, bool hash) {
  const auto found = files_.find(name);
  if (found == files_.end()) throw Error(kInvalidArgument, path_ + " has no file " + name + ": see \"files\" in its manifest");
  File& file = found->second;
  if (!file.checked && !archive_) {
    auto mapping = std::make_unique<MappedFile>(path_ + "/" + name);
    if (mapping->size() != file.entry.bytes)
      throw Error(kBundle, path_ + "/" + name + " has " + std::to_string(mapping->size()) + " bytes, the manifest says " +
                               std::to_string(file.entry.bytes) +
                               ": it is truncated or of another bundle; copy it again or compile it again");
    file.mapping = std::move(mapping);
  }
  const Bytes bytes = {archive_ ? archive_->data() + file.offset : file.mapping->data(), file.entry.bytes};
  if (!file.checked && hash && sha256_hex(bytes.data, bytes.size, MappedFile::release) != file.entry.sha256)
    throw Error(kBundle,
                path_ + "/" + name +
                    " does not match its hash in the manifest: it was changed or damaged; copy it again or compile it again");
  file.checked = true;
  return bytes;
}

}  // namespace ae
