// Types of the manifest's members that the native runtime does not use, so that it refuses what the Python reader refuses.
#pragma once

#include "core/json.hpp"

namespace ae {

// `root` is a manifest whose other members were checked. Throws Error(kBundle) that names the member that is wrong.
void check_unused_members(const Json& root);

}  // namespace ae
