#include "modules.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "errors.hpp"

namespace i3d::core {
namespace {

constexpr std::array<const char*, 4> kBackends = {"openvino", "onnxruntime", "tensorrt", "tensorrt_rtx"};

// The folder that this library was loaded from.
std::filesystem::path own_folder() {
    Dl_info info{};
    if (dladdr(reinterpret_cast<const void*>(&open_engine_of), &info) == 0 || info.dli_fname == nullptr) {
        throw Error(I3D_ERROR_INTERNAL, "the folder of libi3d cannot be found");
    }
    return std::filesystem::absolute(info.dli_fname).parent_path();
}

}  // namespace

OpenEngine open_engine_of(const std::string& backend) {
    if (std::find(kBackends.begin(), kBackends.end(), backend) == kBackends.end()) {
        throw Error(I3D_ERROR_INPUT,
                    "backend \"" + backend + "\" must be openvino, onnxruntime, tensorrt or tensorrt_rtx");
    }
    const std::filesystem::path path = own_folder() / ("libi3d_" + backend + ".so");
    if (!std::filesystem::exists(path)) {
        throw Error(I3D_ERROR_BACKEND, "this libi3d was built without " + backend +
                                           ": configure it with -DI3D_BACKENDS=" + backend + " where its headers are");
    }
    // Never closed: its libraries keep threads and caches of their own.
    void* module = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (module == nullptr) {
        throw Error(I3D_ERROR_BACKEND, backend + " cannot be loaded on this machine: " + dlerror());
    }
    void* symbol = dlsym(module, kOpenEngine);
    if (symbol == nullptr) {
        throw Error(I3D_ERROR_BACKEND,
                    path.string() + " is no backend of this library: build and install both together");
    }
    return reinterpret_cast<OpenEngine>(symbol);
}

}  // namespace i3d::core
