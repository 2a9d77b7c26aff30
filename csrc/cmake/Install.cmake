# Installs the libraries with a CMake package and pkg-config files that can be moved, also inside the wheel.

include(CMakePackageConfigHelpers)
set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/aigc_edge")
install(TARGETS aigc_edge aigc_edge_static EXPORT aigc_edgeTargets
  LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT runtime NAMELINK_COMPONENT dev
  ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT dev)
install(DIRECTORY csrc/include/ DESTINATION include COMPONENT dev)
install(EXPORT aigc_edgeTargets NAMESPACE aigc_edge:: DESTINATION "${package_dir}" COMPONENT dev)
configure_package_config_file(csrc/cmake/aigc_edgeConfig.cmake.in aigc_edgeConfig.cmake INSTALL_DESTINATION "${package_dir}")
write_basic_package_version_file(aigc_edgeConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/aigc_edgeConfig.cmake" "${CMAKE_CURRENT_BINARY_DIR}/aigc_edgeConfigVersion.cmake"
  DESTINATION "${package_dir}" COMPONENT dev)

# What the static library needs. The CUDA runtime that it was compiled for is installed beside it, as NVIDIA's licence allows, so
# that its users need no CUDA toolkit.
set(AIGC_EDGE_STATIC_LIBS "-lstdc++ -lm -lpthread")
if(AIGC_EDGE_HAVE_CUDA)
  install(FILES "${CUDA_cudart_static_LIBRARY}" DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT dev RENAME libcudart_static.a)
  string(PREPEND AIGC_EDGE_STATIC_LIBS "\${libdir}/libcudart_static.a ")
  string(APPEND AIGC_EDGE_STATIC_LIBS " -ldl -lrt")
endif()
foreach(name aigc_edge aigc_edge-static)
  configure_file("csrc/cmake/${name}.pc.in" "${name}.pc" @ONLY)
  install(FILES "${CMAKE_CURRENT_BINARY_DIR}/${name}.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig" COMPONENT dev)
endforeach()
