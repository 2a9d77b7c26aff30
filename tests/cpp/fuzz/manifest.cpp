// Any text as a manifest, at its own size, at one that it may not have, and in tiles.
#include "runtime/manifest.hpp"

#include "fuzz/target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  for (const ae::OpenSizes& requested : {ae::OpenSizes{}, ae::OpenSizes{{6, 5}, {}, {}, -1},
                                         ae::OpenSizes{{12, 10}, {}, {6, 5}, 2}, ae::OpenSizes{{64, 64}, {32, 32}, {}, -1}})
    fuzz::read_or_refuse([&] {
      const ae::Manifest manifest = ae::parse_manifest(fuzz::text(data, size), requested);
      AE_REQUIRE(manifest.output_shape.size() == 3);
      AE_REQUIRE(manifest.denoiser || manifest.decoder);
      AE_REQUIRE(manifest.programs.count(manifest.default_program) == 1);
      for (const auto* component : {&manifest.denoiser, &manifest.decoder, &manifest.schedule})
        for (const auto& format : *component ? (*component)->formats : std::map<std::string, std::string>())
          AE_REQUIRE(manifest.files.count(format.second) == 1);
      for (const auto& [name, entry] : manifest.files) AE_REQUIRE(name.find("..") != 0 && name[0] != '/');
    });
  return 0;
}
