// The files of a bundle: in a folder, or in one uncompressed zip of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "core/mapped_file.hpp"
#include "runtime/manifest.hpp"

namespace ae {

struct Bytes {
  const uint8_t* data;  // [size]
  size_t size;
};

class Storage {
 public:
  explicit Storage(std::string path);  // throws Error(kBundle) when there is nothing, or no bundle, at `path`

  // manifest.json, which matches manifest.sha256. Throws Error(kBundle).
  std::string manifest() const;

  // Takes what the manifest says of the files. Throws Error(kBundle) when an archive does not hold them in these sizes; the files
  // of a folder are looked at when they are read.
  void list(const std::map<std::string, FileEntry>& files);

  // The bytes of a listed file, whose size and, with `hash`, SHA-256 were checked (once); they live as long as this object.
  // Throws Error.
  Bytes read(const std::string& name, bool hash);

 private:
  struct File {
    FileEntry entry;
    bool checked = false;
    size_t offset = 0;                    // in the archive
    std::unique_ptr<MappedFile> mapping;  // in a folder
  };

  std::string text(const char* name) const;

  std::string path_;
  std::unique_ptr<MappedFile> archive_;  // null: a folder
  std::map<std::string, File> files_;    // of an archive all that it holds, until `list`
};

}  // namespace ae
