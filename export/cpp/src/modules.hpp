// Backends as modules beside the library.
#pragma once

#include <memory>
#include <string>

#include "engine.hpp"

namespace i3d::core {

// Load the module of a backend ("openvino", ...), once for the length of the process.
// Throws Error: it was not built, or its libraries are not on this machine.
OpenEngine open_engine_of(const std::string& backend);

}  // namespace i3d::core
