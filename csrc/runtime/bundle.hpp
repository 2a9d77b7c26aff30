// An open bundle: nothing of it is used before its version, its sizes, its hashes and its bounds are checked.
#pragma once

#include <string>

#include "aigc_edge/aigc_edge.h"
#include "runtime/manifest.hpp"
#include "runtime/storage.hpp"

namespace ae {

class Bundle {
 public:
  // `format` empty, sizes zero: the bundle's default. Throws Error(kBundle | kInvalidArgument) with a whole sentence.
  Bundle(const std::string& path, const std::string& format, ae_verify verify, const OpenSizes& sizes);

  // Throws Error unless a file of the bundle is as the manifest says.
  void check(const std::string& name) { storage_.check(name, hash_); }
  // A checked copy of a file, which lives as long as the bundle. Throws Error.
  Bytes file(const std::string& name) { return storage_.read(name, hash_); }

  const std::string& text() const { return text_; }  // the manifest as it is stored
  const Manifest& manifest() const { return manifest_; }
  const std::string& format() const { return format_; }
  int64_t overlap() const { return overlap_; }  // of tiles, in pixels; -1: the default
  const Component* denoiser() const { return manifest_.denoiser ? &*manifest_.denoiser : nullptr; }
  const Component* decoder() const { return manifest_.decoder ? &*manifest_.decoder : nullptr; }
  const Component* schedule() const { return manifest_.schedule ? &*manifest_.schedule : nullptr; }

  // Whether the denoiser takes the row's guidance weight as a number.
  bool embeds_guidance() const { return denoiser() && denoiser()->takes(Role::kGuidance); }
  // Whether rows whose guidance weight is not 1 evaluate a second half, without the class or the conditions.
  bool guides() const {
    return (manifest_.class_count > 0 || (denoiser() && denoiser()->takes(Role::kCondition))) && !embeds_guidance();
  }

  const Program& program(const std::string& name) const;  // empty: the default. Throws Error.
  void add_program(Program program);                      // throws Error when it does not suit the bundle's components

 private:
  void choose_format(const std::string& format);

  std::string path_;
  bool hash_;
  Storage storage_;
  std::string text_;
  Manifest manifest_;
  std::string format_;
  int64_t overlap_;
};

}  // namespace ae
