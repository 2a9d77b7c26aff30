// ae_open of a bundle whose replacement was interrupted between its two renames. Takes the path of a bundle.
#include <sys/stat.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "aigc_edge/aigc_edge.h"

namespace {

namespace fs = std::filesystem;

fs::path written_meanwhile;  // by another process, between the look at the path and the rename

}  // namespace

// Stands in for closedir, see tests/cpp/CMakeLists.txt.
extern "C" int __real_closedir(void* folder);
extern "C" int __wrap_closedir(void* folder) {
  if (!written_meanwhile.empty()) std::ofstream(written_meanwhile) << "new";
  return __real_closedir(folder);
}

namespace {

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "failed: %s\n", what);
  std::exit(1);
}

ae_status open(const fs::path& path) {
  ae_engine engine = {};
  engine.size = sizeof engine;
  engine.evaluate = [](void*, const ae_evaluation*, char*, size_t) -> ae_status { return AE_OK; };
  ae_open_options options = {};
  options.size = sizeof options;
  options.engine = &engine;
  ae_handle* handle = nullptr;
  const ae_status status = ae_open(path.c_str(), &options, &handle);
  ae_close(handle);
  return status;
}

void age(const fs::path& path, int hours) {
  fs::last_write_time(path, fs::file_time_type::clock::now() - std::chrono::hours(hours));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  std::string place = (fs::temp_directory_path() / "aigc_edge_XXXXXX").string();
  require(mkdtemp(place.data()) != nullptr, "a folder");
  const fs::path folder = place, bundle = folder / "b[1].aigc", aside = folder / ".b[1].aigc.01234567.old";

  fs::copy(argv[1], aside, fs::copy_options::recursive);
  require(open(folder / "b") == AE_BUNDLE && fs::exists(aside), "the bundle of another name stays");
  require(open(bundle) == AE_OK && fs::exists(bundle) && !fs::exists(aside), "it is renamed to the path");

  // The latest of several, under a path with a slash behind it.
  fs::rename(bundle, aside);
  const fs::path older = folder / ".b[1].aigc.89abcdef.old";
  fs::create_directory(older);
  age(older, 2);
  age(aside, 1);
  require(open(bundle.string() + "/") == AE_OK && fs::exists(older) && !fs::exists(aside), "the latest is renamed to the path");

  // What is there is never replaced, be it no bundle or a link that leads nowhere.
  fs::rename(bundle, aside);
  std::ofstream(bundle) << "other";
  require(open(bundle) == AE_BUNDLE && fs::is_regular_file(bundle) && fs::exists(aside), "a file stays");
  fs::remove(bundle);
  fs::create_symlink("nowhere", bundle);
  require(open(bundle) == AE_BUNDLE && fs::is_symlink(bundle) && fs::exists(aside), "a link stays");
  fs::remove(bundle);

  // Nor what appears there meanwhile.
  const fs::path packed = folder / "packed.aigc", aside_of_it = folder / ".packed.aigc.01234567.old";
  for (const bool is_folder : {false, true}) {
    if (is_folder)
      fs::create_directory(aside_of_it);
    else
      std::ofstream(aside_of_it) << "older";
    written_meanwhile = packed;
    require(open(packed) == AE_BUNDLE && fs::file_size(packed) == 3 && fs::exists(aside_of_it), "a new file stays");
    written_meanwhile.clear();
    fs::remove(packed);
    require(open(packed) == AE_BUNDLE && fs::exists(packed) && !fs::exists(aside_of_it),
            "the replaced file is renamed to the path");
    fs::remove(packed);
  }

  // From the folder itself, by the name alone.
  fs::current_path(folder);
  require(open("b[1].aigc") == AE_OK && !fs::exists(aside), "a relative path");
  fs::current_path("/");
  fs::remove_all(folder);
  std::printf("done\n");
}
