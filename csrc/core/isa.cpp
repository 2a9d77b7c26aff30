#include "core/isa.hpp"

#include <atomic>
#include <cstdlib>

#include "core/error.hpp"

namespace ae {
namespace {

struct Isa {
  const char* name;
  bool (*runs_here)();
};

// One function for each name in AE_EACH_ISA.
namespace runs_here {
bool baseline() { return true; }
#if defined(AIGC_EDGE_X86_64_ISAS)
bool v3() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
         __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
}
bool v4() {
  return v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif
}  // namespace runs_here

#define AE_ISA(isa, op, Params) {#isa, runs_here::isa},
constexpr Isa kIsas[] = {AE_EACH_ISA(AE_ISA, , )};
#undef AE_ISA
constexpr int kCount = sizeof kIsas / sizeof kIsas[0];

int position(const std::string& name) {
  std::string allowed;
  for (int i = 0; i < kCount; ++i) {
    if (!kIsas[i].runs_here()) continue;
    if (name == kIsas[i].name) return i;
    allowed += (allowed.empty() ? "" : ", ") + std::string(kIsas[i].name);
  }
  throw Error(kInvalidArgument, "the instruction set \"" + name + "\" is not available here: choose one of " + allowed);
}

int first_choice() {
  if (const char* wanted = std::getenv("AIGC_EDGE_ISA"); wanted && *wanted) return position(wanted);
  int best = 0;
  for (int i = 0; i < kCount; ++i) {
    if (kIsas[i].runs_here()) best = i;
  }
  return best;
}

std::atomic<int> chosen{-1};  // a constant initialiser: nothing runs at load time

}  // namespace

int current_isa() {
  const int known = chosen.load(std::memory_order_relaxed);
  if (known >= 0) return known;
  const int found = first_choice();
  chosen.store(found, std::memory_order_relaxed);
  return found;
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Isa& isa : kIsas) {
    if (isa.runs_here()) names.emplace_back(isa.name);
  }
  return names;
}

std::string current_isa_name() { return kIsas[current_isa()].name; }

void set_isa(const std::string& name) { chosen.store(position(name), std::memory_order_relaxed); }

}  // namespace ae
