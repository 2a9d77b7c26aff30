// Which of the compiled instruction sets the CPU kernels use.
#pragma once

#include <string>
#include <vector>

// X(isa, op, Params) for each instruction set that the kernels were compiled for, best last; csrc/cmake/Ops.cmake decides.
#if defined(AIGC_EDGE_X86_64_ISAS)
#define AE_EACH_ISA(X, op, Params) X(baseline, op, Params) X(v3, op, Params) X(v4, op, Params)
#else
#define AE_EACH_ISA(X, op, Params) X(baseline, op, Params)
#endif

namespace ae {

// The position, among those that were compiled, of the instruction set in use: at first the best that this CPU has, or what the
// environment variable AIGC_EDGE_ISA names (baseline, v3 = AVX2 and FMA, v4 = AVX-512).
int current_isa();

// Names of those that this CPU can run, best last.
std::vector<std::string> available_isas();
std::string current_isa_name();

// For tests and measurements; throws Error when `name` is not available here.
void set_isa(const std::string& name);

}  // namespace ae
