#include "runtime/request.hpp"

#include <cmath>
#include <string>

#include "core/error.hpp"
#include "runtime/conditions.hpp"
#include "runtime/rows.hpp"

namespace ae {
namespace {

void check_classes(const Bundle& bundle, const int32_t* classes, int count, bool null_class, const char* what) {
  for (int i = 0; classes != nullptr && i < count; ++i) {
    if (classes[i] >= (null_class ? -1 : 0) && classes[i] < bundle.manifest().class_count) continue;
    throw Error(kInvalidArgument, what + std::to_string(classes[i]) + " is out of range: this bundle has the classes 0 to " +
                                      std::to_string(bundle.manifest().class_count - 1) +
                                      (null_class ? ", and -1 for none" : ""));
  }
}

// The guidance weights of all rows decide whether something to lead away from is needed.
void check_guidance(const ae_sample_options& options, const Bundle& bundle, const Program& program) {
  const Component* denoiser = bundle.denoiser();
  check_conditions(denoiser, options.conditions, options.num_conditions, options.count, "the condition");
  if (bundle.embeds_guidance()) {
    if (options.num_negative_conditions > 0 || options.negative_classes != nullptr)
      throw Error(kInvalidArgument,
                  "this network takes the guidance scale as a number, so that nothing negative has an effect: leave it out");
    return;
  }
  bool guided = false;
  for (const Row& row : program.rows) guided = guided || row.weight(guidance_scale(options, program)) != 1.0;
  const bool takes = denoiser != nullptr && denoiser->takes(Role::kCondition);
  if (guided && takes && options.num_negative_conditions == 0)
    throw Error(kInvalidArgument,
                "guidance needs negative conditions, to lead away from them: give them, or a guidance scale of 1");
  if (options.num_negative_conditions > 0)
    check_conditions(denoiser, options.negative_conditions, options.num_negative_conditions, options.count,
                     "the negative condition");
}

}  // namespace

double guidance_scale(const ae_sample_options& options, const Program& program) {
  return options.guidance_scale != nullptr ? double{*options.guidance_scale} : program.guidance_scale;
}

void check_request(const ae_sample_options& options, const Bundle& bundle, const Program& program) {
  if (options.count < 1)
    throw Error(kInvalidArgument, "the count of samples is " + std::to_string(options.count) + ": it must be at least 1");
  if (options.output != AE_OUTPUT_RGB8 && options.output != AE_OUTPUT_FLOAT32)
    throw Error(kInvalidArgument,
                "the output is " + std::to_string(options.output) + ": it must be AE_OUTPUT_RGB8 or AE_OUTPUT_FLOAT32");
  if (options.guidance_scale != nullptr && !std::isfinite(*options.guidance_scale))
    throw Error(kInvalidArgument, "the guidance scale is not a finite number: 1 means no guidance");
  if (bundle.manifest().class_count == 0 && (options.classes != nullptr || options.negative_classes != nullptr))
    throw Error(kInvalidArgument, "this bundle is unconditional: leave the classes out");
  const bool null_class = bundle.denoiser() != nullptr;
  check_classes(bundle, options.classes, options.count, null_class, "class ");
  check_classes(bundle, options.negative_classes, options.count, true, "negative class ");
  if (options.guidance_rescale != nullptr && !(*options.guidance_rescale >= 0 && *options.guidance_rescale <= 1))
    throw Error(kInvalidArgument, "the guidance rescale is " + number_text(*options.guidance_rescale) + ": 0 to 1 is allowed");
  if (options.noise != nullptr && options.num_draws != program.draws())
    throw Error(kInvalidArgument, "noise holds " + std::to_string(options.num_draws) + " draws: program " + program.name +
                                      " adds noise " + std::to_string(program.draws()) + " times");
  if ((options.mask == nullptr) != (options.known == nullptr))
    throw Error(kInvalidArgument, "a mask and what is known must be given together");
  if (options.mask != nullptr) require_levels(program);
  check_guidance(options, bundle, program);
  if (program.rows.empty() && bundle.decoder() == nullptr)
    throw Error(kInvalidArgument, "program " + program.name + " has no rows");
}

}  // namespace ae
