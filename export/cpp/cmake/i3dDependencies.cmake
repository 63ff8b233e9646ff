# Where headers and libraries come from: packages that CMake finds, else Python wheels, else the folders of NAME_ROOT.

# The folder of an installed Python package, or nothing.
function(i3d_python_folder package result)
  set(${result} "" PARENT_SCOPE)
  if(Python3_Interpreter_FOUND)
    execute_process(
      COMMAND ${Python3_EXECUTABLE} -c
              "import importlib.util as u; s = u.find_spec('${package}'); print(s.submodule_search_locations[0])"
      OUTPUT_VARIABLE folder OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE code)
    if(code EQUAL 0)
      set(${result} "${folder}" PARENT_SCOPE)
    endif()
  endif()
endfunction()

# A library: below a root, or the one that a wheel brings, which is named with its version.
function(i3d_find_library result names root package_folder)
  find_library(${result} NAMES ${names} HINTS "${root}" PATH_SUFFIXES lib lib64)
  if(NOT ${result} AND package_folder)
    list(GET names 0 name)
    file(GLOB libraries "${package_folder}/lib${name}.so*")
    if(libraries)
      list(GET libraries 0 library)
      set(${result} "${library}" CACHE FILEPATH "Library of a Python wheel" FORCE)
    endif()
  endif()
endfunction()

# ---- JSON for Modern C++, headers alone ----
add_library(i3d_json INTERFACE)
find_package(nlohmann_json 3.9 QUIET)
if(nlohmann_json_FOUND)
  target_link_libraries(i3d_json INTERFACE nlohmann_json::nlohmann_json)
else()
  i3d_python_folder(nlohmann_json folder)
  find_path(I3D_JSON_INCLUDE nlohmann/json.hpp HINTS "${folder}/include" NO_CACHE)
  if(NOT I3D_JSON_INCLUDE)
    message(FATAL_ERROR "i3d: nlohmann/json is not found, neither by CMake nor in the packages of "
                        "${Python3_EXECUTABLE}: pip install 'i3d-deploy[cpp]', or install nlohmann-json3-dev")
  endif()
  target_include_directories(i3d_json SYSTEM INTERFACE "${I3D_JSON_INCLUDE}")
endif()

# ---- OpenVINO: a package, or the wheel, which has CMake files too ----
set(I3D_openvino_HINT "pip install openvino, or set OpenVINO_DIR")
function(i3d_find_openvino result)
  i3d_python_folder(openvino folder)
  find_package(OpenVINO QUIET COMPONENTS Runtime HINTS "${folder}/cmake")
  set(${result} ${OpenVINO_FOUND} PARENT_SCOPE)
  if(OpenVINO_FOUND)
    i3d_add_backend(openvino openvino.cpp openvino::runtime)
  endif()
endfunction()

# ---- ONNX Runtime: headers of a release; the library of the same, or of the wheel, which has no header ----
set(I3D_onnxruntime_HINT "set onnxruntime_ROOT to an unpacked release of ONNX Runtime, with include (and lib)")
function(i3d_find_onnxruntime result)
  i3d_python_folder(onnxruntime folder)
  find_path(I3D_ONNXRUNTIME_INCLUDE onnxruntime_c_api.h HINTS "${onnxruntime_ROOT}"
            PATH_SUFFIXES include include/onnxruntime include/onnxruntime/core/session)
  i3d_find_library(I3D_ONNXRUNTIME_LIBRARY onnxruntime "${onnxruntime_ROOT}" "${folder}/capi")
  set(${result} OFF PARENT_SCOPE)
  if(I3D_ONNXRUNTIME_INCLUDE AND I3D_ONNXRUNTIME_LIBRARY)
    set(library "${I3D_ONNXRUNTIME_LIBRARY}")
    if(library MATCHES "/capi/") # the wheel lacks the name that programs ask for at run time
      set(link "${CMAKE_CURRENT_BINARY_DIR}/onnxruntime/libonnxruntime.so.1")
      file(MAKE_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}/onnxruntime")
      file(CREATE_LINK "${library}" "${link}" SYMBOLIC)
      set(library "${link}")
    endif()
    i3d_add_backend(onnxruntime onnxruntime.cpp "${library}")
    target_include_directories(i3d_onnxruntime SYSTEM PRIVATE "${I3D_ONNXRUNTIME_INCLUDE}")
    set(${result} ON PARENT_SCOPE)
  endif()
endfunction()

# ---- TensorRT, in two flavours with the same headers; libraries may be those of the wheels ----
function(i3d_find_flavor flavor library root result)
  find_package(CUDAToolkit QUIET)
  find_path(I3D_${flavor}_INCLUDE NvInfer.h HINTS "${root}" PATH_SUFFIXES include)
  i3d_python_folder(${flavor}_libs folder)
  i3d_find_library(I3D_${flavor}_LIBRARY ${library} "${root}" "${folder}")
  set(${result} OFF PARENT_SCOPE)
  if(CUDAToolkit_FOUND AND OpenSSL_FOUND AND I3D_${flavor}_INCLUDE AND I3D_${flavor}_LIBRARY)
    i3d_add_backend(${flavor} tensorrt.cpp "${I3D_${flavor}_LIBRARY}" CUDA::cudart)
    target_include_directories(i3d_${flavor} SYSTEM PRIVATE "${I3D_${flavor}_INCLUDE}")
    target_compile_definitions(i3d_${flavor} PRIVATE I3D_FLAVOR="${flavor}")
    set(${result} ON PARENT_SCOPE)
  endif()
endfunction()

set(I3D_tensorrt_HINT "it takes TensorRT 10 or 11 (tensorrt_ROOT), the CUDA toolkit and OpenSSL")
function(i3d_find_tensorrt result)
  i3d_find_flavor(tensorrt nvinfer "${tensorrt_ROOT}" found)
  set(${result} ${found} PARENT_SCOPE)
endfunction()

set(I3D_tensorrt_rtx_HINT "it takes TensorRT-RTX (tensorrt_rtx_ROOT), the CUDA toolkit and OpenSSL")
function(i3d_find_tensorrt_rtx result)
  i3d_find_flavor(tensorrt_rtx tensorrt_rtx "${tensorrt_rtx_ROOT}" found)
  set(${result} ${found} PARENT_SCOPE)
endfunction()
