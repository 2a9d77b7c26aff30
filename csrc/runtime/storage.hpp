// The files of a bundle: in a folder, or in one uncompressed zip of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "core/file.hpp"
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

  // Throws Error unless a listed file has its size and, with `hash`, its SHA-256. Reads it piece by piece and keeps nothing of
  // it.
  void check(const std::string& name, bool hash);

  // A checked copy of a listed file, which lives as long as this object. Throws Error.
  Bytes read(const std::string& name, bool hash);

 private:
  struct Member {
    FileEntry entry;
    uint64_t offset = 0;                // in the archive
    std::unique_ptr<const File> file;   // in a folder, from its first use on: it stays what was checked if it is replaced
    std::optional<File::State> hashed;  // of the file when it was: no need to do it again unless that has changed
    std::unique_ptr<uint8_t[]> data;    // [entry.bytes], the copy
  };

  std::string text(const char* name, size_t most) const;
  Member& find(const std::string& name);
  void load(const std::string& name, Member& member, bool hash, uint8_t* copy);  // copy: null, or [entry.bytes] to be filled

  std::string path_;
  std::unique_ptr<File> archive_;        // null: a folder
  int num_open_ = 0;                     // files of the folder that stay open
  std::map<std::string, Member> files_;  // of an archive all that it holds, until `list`
};

}  // namespace ae
