// What a caller asks ae_sample for, checked before anything is done.
#pragma once

#include "aigc_edge/aigc_edge.h"
#include "runtime/bundle.hpp"

namespace ae {

// Throws Error(kInvalidArgument | kUnsupported) for options that this program of this bundle cannot be run with.
void check_request(const ae_sample_options& options, const Bundle& bundle, const Program& program);

// The guidance scale that is asked for, or the program's own.
double guidance_scale(const ae_sample_options& options, const Program& program);

}  // namespace ae
