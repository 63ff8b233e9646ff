// The seam that every backend implements, in a module of its own: libi3d loads it when an engine of its kind comes, so
// that a machine needs the libraries of those backends alone that it uses.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "card.hpp"

namespace i3d::core {

// What to open, and how.
struct EngineFile {
    std::string path;
    std::string card;     // empty where the engine carries its card itself
    std::string version;  // of the package that built it, where it is known
    std::string device = "auto";
    int threads = 0;  // 0: the backend's choice
};

// Type and shape of an engine's input or output, without N.
struct Tensor {
    std::string dtype;                // "uint8" or "float32"; another word is the backend's own
    std::vector<std::int64_t> shape;  // -1 where any size will do
};

// A loaded engine. Not thread-safe.
class Engine {
public:
    virtual ~Engine() = default;

    // The card as JSON; "" where there is none.
    virtual std::string card() const = 0;
    virtual Tensor input() const = 0;
    virtual Tensor output() const = 0;

    // Make it ready to run, once, after its card was read.
    virtual void compile(const EngineSpec& spec) = 0;

    // Run it.
    //   input: of the engine's type, of this shape, N first.
    //   logits: N x K, overwritten.
    virtual void infer(const void* input, const std::vector<std::int64_t>& shape, float* logits) = 0;

    // Views per run that suit it; known after compile().
    virtual int preferred_batch() const = 0;
    // Type of the convolutions that it really computes, which may be another than the card's; known after compile().
    virtual std::string precision() const = 0;
    // Package and version, and where it runs; known after compile().
    virtual std::string backend() const = 0;
    virtual std::string device() const = 0;
};

// What a module exports, under a name with the version of the library: others have another layout. Throws Error.
using OpenEngine = Engine* (*)(const EngineFile& file);

}  // namespace i3d::core

#define I3D_MODULE extern "C" __attribute__((visibility("default")))
