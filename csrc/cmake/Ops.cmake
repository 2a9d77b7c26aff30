# Finds the ops (every csrc/ops/<op>/ with a params.hpp) and compiles their kernels. Nobody edits a list.
#
# csrc/ops/<op>/cpu.cpp is compiled once an instruction set, each time into the namespace ae::ops::<isa>; csrc/ops/table.cpp, which
# knows all of them by the lists written here, chooses one at run time. A table and no static initialisers, because a static
# library drops what nothing refers to.

set(AIGC_EDGE_GENERATED "${CMAKE_CURRENT_BINARY_DIR}/generated")

if(DEFINED AIGC_EDGE_ISAS)
  # given: a build with sanitizers compiles the baseline alone
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(AIGC_EDGE_ISAS baseline v3 v4)
else()
  set(AIGC_EDGE_ISAS baseline) # aarch64: NEON
endif()
set(AIGC_EDGE_ISA_FLAGS_v3 -march=x86-64-v3) # AVX2, FMA, F16C
set(AIGC_EDGE_ISA_FLAGS_v4 -march=x86-64-v4 -mprefer-vector-width=512) # AVX-512 F, BW, CD, DQ, VL
# -fno-thread-jumps: gcc 12 otherwise splits clamps into branches and computes denormals in dead lanes, 7 to 15 times slower.
set(AIGC_EDGE_KERNEL_FLAGS -O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math -fno-exceptions -fno-rtti
  $<$<CXX_COMPILER_ID:GNU>:-fno-thread-jumps>
  $<$<AND:$<CXX_COMPILER_ID:GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>:-Wno-maybe-uninitialized>) # of gcc's own intrinsics

file(GLOB AIGC_EDGE_OPS CONFIGURE_DEPENDS RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}/csrc/ops" csrc/ops/*/params.hpp)
list(TRANSFORM AIGC_EDGE_OPS REPLACE "/params.hpp" "")

# Writes the lists that csrc/ops/table.cpp and csrc/core/isa.cpp include into `folder`; further arguments: the instruction sets.
function(aigc_edge_write_op_lists folder with_cuda)
  set(includes "")
  set(ops "")
  set(kernels "")
  foreach(op IN LISTS AIGC_EDGE_OPS)
    string(REPLACE "_" ";" words "${op}") # solver_step → SolverStepParams
    set(params "")
    foreach(word IN LISTS words)
      string(SUBSTRING "${word}" 0 1 first)
      string(SUBSTRING "${word}" 1 -1 rest)
      string(TOUPPER "${first}" first)
      string(APPEND params "${first}${rest}")
    endforeach()
    string(APPEND params "Params")
    set(has_cuda 0)
    if(with_cuda AND EXISTS "${PROJECT_SOURCE_DIR}/csrc/ops/${op}/cuda.cu")
      set(has_cuda 1)
    endif()
    set(choices "")
    foreach(isa IN LISTS ARGN)
      string(APPEND choices ", ${isa}::${op}")
      string(APPEND kernels "AIGC_EDGE_KERNEL(${isa}, ${op}, ${params})\n")
    endforeach()
    string(APPEND includes "#include \"ops/${op}/params.hpp\"\n")
    string(APPEND ops "AIGC_EDGE_OP(${op}, ${params}, ${has_cuda}${choices})\n")
  endforeach()
  set(isas "")
  foreach(isa IN LISTS ARGN)
    string(APPEND isas "AIGC_EDGE_LISTED_ISA(${isa})\n")
  endforeach()
  file(CONFIGURE OUTPUT "${folder}/op_includes.inc" CONTENT "${includes}")
  file(CONFIGURE OUTPUT "${folder}/op_list.inc" CONTENT "${ops}")
  file(CONFIGURE OUTPUT "${folder}/kernel_list.inc" CONTENT "${kernels}")
  file(CONFIGURE OUTPUT "${folder}/isa_list.inc" CONTENT "${isas}")
endfunction()

aigc_edge_write_op_lists("${AIGC_EDGE_GENERATED}" ${AIGC_EDGE_HAVE_CUDA} ${AIGC_EDGE_ISAS})

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
