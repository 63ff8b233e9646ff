// Engine files: which backend runs one, and the document beside a TensorRT plan.
#pragma once

#include <string>

namespace i3d::core {

struct Artifact {
    std::string backend;  // "openvino", "onnxruntime", "tensorrt" or "tensorrt_rtx"
    std::string card;     // JSON; empty where the engine carries it
    std::string version;  // of the package that built it; empty where it is not known
};

// Tell what runs a file; of a TensorRT plan also read the document beside it and check the plan's SHA-256.
// Throws Error: it does not exist, is empty, of an unknown kind, or not the plan that its document describes.
Artifact identify(const std::string& path);

}  // namespace i3d::core
