# What others have made that is compiled into a wheel, as a software bill of materials (CycloneDX) where
# PEP 770 has it: in the package's metadata, under sboms/.
set(sbom [[{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": []}]])

macro(component name version license purl)
  string(JSON count LENGTH "${sbom}" components)
  string(JSON sbom SET "${sbom}" components ${count} "{
    \"type\": \"library\", \"name\": \"${name}\", \"version\": \"${version}\", \"purl\": \"${purl}\",
    \"licenses\": [{\"license\": {${license}}}]}")
endmacro()

string(JSON sbom SET "${sbom}" metadata "{\"component\": {
  \"type\": \"library\", \"name\": \"hybridret\", \"version\": \"${SKBUILD_PROJECT_VERSION_FULL}\",
  \"purl\": \"pkg:pypi/hybridret@${SKBUILD_PROJECT_VERSION_FULL}\",
  \"licenses\": [{\"license\": {\"id\": \"Apache-2.0\"}}]}}")
component(hnswlib "${HNSWLIB_VERSION}" [["id": "Apache-2.0"]] "pkg:pypi/hnswlib@${HNSWLIB_VERSION}")
component(pybind11 "${pybind11_VERSION}" [["id": "BSD-3-Clause"]] "pkg:pypi/pybind11@${pybind11_VERSION}")
component(cldr 47 [["id": "Unicode-3.0"]] "pkg:github/unicode-org/cldr@release-47")
if(TARGET hybridret_cuda)
  set(license [["name": "NVIDIA CUDA Toolkit End User License Agreement"]])
  component(cuda-runtime "${HYBRIDRET_CUDA_VERSION}" "${license}"
    "pkg:generic/cuda-runtime@${HYBRIDRET_CUDA_VERSION}")
endif()

set(file "${CMAKE_CURRENT_BINARY_DIR}/hybridret.cdx.json")
file(WRITE "${file}" "${sbom}\n")
if(SKBUILD_METADATA_DIR)
  install(FILES "${file}" DESTINATION "${SKBUILD_METADATA_DIR}/sboms")
endif()
