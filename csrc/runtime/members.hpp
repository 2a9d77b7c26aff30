// Types of the manifest's members that the native runtime does not use, so that it refuses what the Python reader refuses.
#pragma once

#include "core/json.hpp"
#include "runtime/component.hpp"

namespace ae {

// Both throw Error(kBundle) that names the member.
void check_unused_members(const Json& root);
void check_unused_members(const Json& json, const Component& component);

}  // namespace ae
