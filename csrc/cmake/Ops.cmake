# Finds the ops (every csrc/ops/<op>/ with an op.cpp), lists them in op_list.inc for csrc/ops/table.cpp, and compiles their kernels:
# csrc/ops/<op>/cpu.cpp once per instruction set, each time into the namespace ae::ops::<isa>. op.cpp chooses one at run time.

set(AIGC_EDGE_GENERATED "${CMAKE_CURRENT_BINARY_DIR}/generated")

if(NOT DEFINED AIGC_EDGE_ISAS) # a build with sanitizers sets it to baseline
  set(AIGC_EDGE_ISAS baseline) # aarch64: NEON
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    list(APPEND AIGC_EDGE_ISAS v3 v4)
  endif()
endif()
if("v4" IN_LIST AIGC_EDGE_ISAS)
  set(AIGC_EDGE_ISA_DEFINITION AIGC_EDGE_X86_64_ISAS) # see csrc/core/isa.hpp
endif()
set(AIGC_EDGE_ISA_FLAGS_v3 -march=x86-64-v3) # AVX2, FMA, F16C
set(AIGC_EDGE_ISA_FLAGS_v4 -march=x86-64-v4 -mprefer-vector-width=512) # AVX-512 F, BW, CD, DQ, VL
# -fno-thread-jumps: gcc 12 otherwise splits clamps into branches and computes denormals in dead lanes, 7 to 15 times slower.
set(AIGC_EDGE_KERNEL_FLAGS -O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math -fno-exceptions -fno-rtti
  $<$<CXX_COMPILER_ID:GNU>:-fno-thread-jumps>
  $<$<AND:$<CXX_COMPILER_ID:GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>:-Wno-maybe-uninitialized>) # of gcc's own intrinsics

file(GLOB AIGC_EDGE_OPS CONFIGURE_DEPENDS RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}/csrc/ops" csrc/ops/*/op.cpp)
list(TRANSFORM AIGC_EDGE_OPS REPLACE "/op.cpp" "")
list(TRANSFORM AIGC_EDGE_OPS REPLACE "(.+)" "AE_OP(\\1)\n" OUTPUT_VARIABLE op_list)
list(JOIN op_list "" op_list)
file(CONFIGURE OUTPUT "${AIGC_EDGE_GENERATED}/op_list.inc" CONTENT "${op_list}")

function(aigc_edge_add_op_libraries objects)
  set(all "")
  list(TRANSFORM AIGC_EDGE_OPS REPLACE "(.+)" "csrc/ops/\\1/cpu.cpp" OUTPUT_VARIABLE sources)
  foreach(isa IN LISTS AIGC_EDGE_ISAS)
    set(library aigc_edge_ops_${isa})
    add_library(${library} OBJECT ${sources})
    target_link_libraries(${library} PRIVATE aigc_edge_options)
    target_compile_definitions(${library} PRIVATE AIGC_EDGE_ISA=${isa})
    target_compile_options(${library} PRIVATE ${AIGC_EDGE_KERNEL_FLAGS} ${AIGC_EDGE_ISA_FLAGS_${isa}})
    list(APPEND all $<TARGET_OBJECTS:${library}>)
  endforeach()
  if(AIGC_EDGE_HAVE_CUDA)
    file(GLOB cuda_sources CONFIGURE_DEPENDS csrc/core/*.cu csrc/ops/*/cuda.cu)
    add_library(aigc_edge_ops_cuda OBJECT ${cuda_sources})
    target_link_libraries(aigc_edge_ops_cuda PRIVATE aigc_edge_options)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13)
      set(compress --compress-mode=size)
    else()
      set(compress -Xfatbin=-compress-all)
    endif()
    target_compile_options(aigc_edge_ops_cuda PRIVATE ${compress} --threads=2 -Xcompiler=-Wall,-Wextra
      $<$<BOOL:${AIGC_EDGE_WERROR}>:-Werror=all-warnings>)
    list(APPEND all $<TARGET_OBJECTS:aigc_edge_ops_cuda>)
  endif()
  set(${objects} "${all}" PARENT_SCOPE)
endfunction()
