#include "modules.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "errors.hpp"

namespace i3d::core {
namespace {

constexpr std::array<const char*, 4> kBackends = {"openvino", "onnxruntime", "tensorrt", "tensorrt_rtx"};

constexpr const char* kFolder = "i3d-" I3D_VERSION_TEXT;

// The folder of this library; empty where it cannot be found.
std::filesystem::path own_folder() noexcept {
    try {
        Dl_info info{};
        const bool is_found = dladdr(reinterpret_cast<const void*>(&open_engine_of), &info) != 0;
        return is_found && info.dli_fname != nullptr ? std::filesystem::absolute(info.dli_fname).parent_path() : "";
    } catch (...) {
        return {};
    }
}

// Found when the library is loaded: its name may be relative, and an application may go elsewhere later.
const std::filesystem::path kOwnFolder = own_folder();

std::string reason() {
    const char* text = dlerror();
    return text == nullptr ? "no reason is given" : text;
}

}  // namespace

OpenEngine open_engine_of(const std::string& backend) {
    if (std::find(kBackends.begin(), kBackends.end(), backend) == kBackends.end()) {
        throw Error(I3D_ERROR_INPUT,
                    "backend \"" + backend + "\" must be openvino, onnxruntime, tensorrt or tensorrt_rtx");
    }
    const std::filesystem::path path = kOwnFolder / kFolder / ("libi3d_" + backend + ".so");
    if (!std::filesystem::exists(path)) {
        throw Error(I3D_ERROR_BACKEND, "this libi3d was built without " + backend +
                                           ": configure it with -DI3D_BACKENDS=" + backend + " where its headers are");
    }
    // Never closed: its libraries keep threads and caches of their own.
    void* module = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (module == nullptr) {
        throw Error(I3D_ERROR_BACKEND, backend + " cannot be loaded on this machine: " + reason());
    }
    void* symbol = dlsym(module, I3D_OPEN_ENGINE_TEXT);
    if (symbol == nullptr) {
        throw Error(I3D_ERROR_BACKEND,
                    path.string() + " is no backend of this library: build and install both together");
    }
    return reinterpret_cast<OpenEngine>(symbol);
}

}  // namespace i3d::core
