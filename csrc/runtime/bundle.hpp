// Reads a bundle: nothing of it is trusted before its version, its sizes, its hashes and its bounds are checked.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "aigc_edge/aigc_edge.h"
#include "core/mapped_file.hpp"
#include "runtime/component.hpp"
#include "runtime/constants.hpp"
#include "runtime/program.hpp"
#include "runtime/sizes.hpp"

namespace ae {

struct Bytes {
  const uint8_t* data;  // [size]
  size_t size;
};

class Bundle {
 public:
  // `format` empty, `size` zero: the bundle's default. Throws Error(kBundle | kInvalidArgument) with a whole sentence.
  Bundle(const std::string& path, const std::string& format, ae_verify verify, Size size);

  // The checked bytes of a file of the bundle; they live as long as the bundle. Throws Error.
  Bytes file(const std::string& name);

  const std::string& manifest() const { return manifest_; }
  const std::string& format() const { return format_; }
  const std::vector<int64_t>& sample_shape() const { return sample_shape_; }
  const std::vector<int64_t>& output_shape() const { return output_shape_; }  // C, H, W
  float output_low() const { return output_low_; }
  float output_high() const { return output_high_; }
  int64_t class_count() const { return class_count_; }  // 0: unconditional
  const Component* denoiser() const { return denoiser_ ? &*denoiser_ : nullptr; }
  const Component* decoder() const { return decoder_ ? &*decoder_ : nullptr; }
  const Component* schedule() const { return schedule_ ? &*schedule_ : nullptr; }          // evaluates the denoiser's constants
  const ConstantTable& constants() const { return constants_; }                            // empty without a schedule
  bool embeds_guidance() const { return denoiser_ && denoiser_->takes(Role::kGuidance); }  // the weight goes in as a number
  // Whether rows whose guidance weight is not 1 evaluate a second half, without the class or the conditions.
  bool guides() const { return (class_count_ > 0 || (denoiser_ && denoiser_->takes(Role::kCondition))) && !embeds_guidance(); }

  const Program& program(const std::string& name) const;  // empty: the default. Throws Error.
  void add_program(Program program);                      // throws Error when it does not fit the bundle's components

 private:
  struct File {
    size_t bytes = 0;
    std::string sha256;
    bool checked = false;
    size_t offset = 0;                  // in the archive
    std::unique_ptr<MappedFile> owned;  // in a folder
  };

  void open_archive();
  void read_manifest();
  void parse(const Json& root);
  void parse_shapes(const Json& root);
  void check(const std::string& name, File& file, bool hash);

  std::string path_;
  std::string format_;
  Size size_;  // that was asked for, then the one that it was opened at; zero: the bundle has one
  bool hash_;
  std::unique_ptr<MappedFile> archive_;  // null: a folder
  std::string manifest_;
  std::map<std::string, File> files_;
  std::vector<int64_t> sample_shape_, output_shape_;
  float output_low_ = -1, output_high_ = 1;
  int64_t class_count_ = 0;
  std::optional<Component> denoiser_, decoder_, schedule_;
  std::vector<Component> text_encoders_;  // checked, and run by whoever has a tokenizer
  ConstantTable constants_;
  std::string default_program_;
  std::map<std::string, Program> programs_;
};

}  // namespace ae
