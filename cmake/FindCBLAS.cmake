# SPDX-License-Identifier: MIT
# Finds OpenBLAS with its C interface: the target CBLAS::CBLAS, the variable CBLAS_FOUND. Where several builds are
# installed side by side, the one on OpenMP is preferred: called from our threads it stays on the calling thread.
set(builds openblas-openmp openblas-serial openblas openblas-pthread)
find_path(CBLAS_INCLUDE_DIR cblas.h PATH_SUFFIXES ${builds})
find_library(CBLAS_LIBRARY openblas PATH_SUFFIXES ${builds})
mark_as_advanced(CBLAS_INCLUDE_DIR CBLAS_LIBRARY)
unset(builds)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(CBLAS REQUIRED_VARS CBLAS_LIBRARY CBLAS_INCLUDE_DIR)
if(CBLAS_FOUND AND NOT TARGET CBLAS::CBLAS)
  add_library(CBLAS::CBLAS UNKNOWN IMPORTED)
  set_target_properties(CBLAS::CBLAS PROPERTIES
    IMPORTED_LOCATION ${CBLAS_LIBRARY} INTERFACE_INCLUDE_DIRECTORIES ${CBLAS_INCLUDE_DIR})
endif()
