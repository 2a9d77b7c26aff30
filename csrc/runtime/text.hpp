// Text encoders of a bundle: networks from token ids to conditions of the denoiser. The runtime checks them and runs none: a
// tokenizer is needed before them, and what they give is the same for every sample of a prompt.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/json.hpp"
#include "runtime/component.hpp"

namespace ae {

// Throws Error(kBundle) when an encoder is not what turns token ids [N, L] into conditions, when two of them or one and the
// denoiser (which may be null) disagree about a condition, or when manifest.text (which may be missing) does not describe exactly
// these encoders. `has_file` tells whether a name is among manifest.files.
void check_text(const std::vector<Component>& encoders, const Component* denoiser, const std::optional<Json>& text,
                const std::function<bool(const std::string&)>& has_file);

}  // namespace ae
