// The card: everything that turns a video into a prediction, read from the JSON that every exported file carries.
#pragma once

#include <array>
#include <string>
#include <vector>

namespace i3d::core {

enum class Scheme { kUniform, kDense, kWhole };
enum class Formula { kMMAction0, kMMAction1, kSlowFast };
enum class SpatialFormula { kMMAction, kSlowFast };
enum class Averaging { kProbabilities, kLogits };
enum class EngineInput { kUint8NTHWC, kFloatNTHWC, kFloatNCTHW };

// Which frames make the clips of a video.
struct Sampling {
    Scheme scheme = Scheme::kUniform;
    Formula formula = Formula::kMMAction0;
    int clip_len = 32;
    int frame_interval = 2;
    int num_clips = 10;
    int sample_range = 64;
    int min_clip_len = 1;
    double frames_per_second = 0;  // 0: whatever rate a video has
    bool repeats_last = false;     // or begins again, after the last frame
};

// Which pixels make the crops of a clip.
struct Spatial {
    SpatialFormula formula = SpatialFormula::kMMAction;
    int short_side = 256;
    int num_crops = 3;
    int crop_size = 256;
};

// What the card says of the engine that carries it.
struct EngineSpec {
    EngineInput input = EngineInput::kUint8NTHWC;
    std::string precision = "fp32";
    std::array<int, 3> profile = {1, 30, 30};  // smallest, best and largest number of views
};

struct Card {
    std::string json;  // all of it, as it was read
    std::string network;
    std::string label_set;
    std::vector<std::string> labels;
    Sampling sampling;
    Spatial spatial;
    std::array<float, 3> mean = {123.675F, 116.28F, 103.53F};
    std::array<float, 3> std = {58.395F, 57.12F, 57.375F};
    Averaging averaging = Averaging::kProbabilities;
    EngineSpec engine;

    // Pixels are not rounded after the resize.
    bool has_float_pixels() const { return spatial.formula == SpatialFormula::kSlowFast; }
    bool has_fixed_length() const { return sampling.scheme != Scheme::kWhole; }
};

// Read and check a card.
//   where: what carried it, for messages.
// Throws Error: it is no JSON, of a newer version, of a network of optical flow, or a field is missing, unknown, of the
// wrong type or out of range.
Card read_card(const std::string& json, const std::string& where);

// The document beside a TensorRT plan.
struct PlanNote {
    std::string card;     // JSON
    std::string flavor;   // package that built it: "tensorrt" or "tensorrt_rtx"
    std::string version;  // of that package
    std::string sha256;   // of the plan
};

// Throws Error: it is no JSON, or a field is missing or cannot be.
PlanNote read_plan_note(const std::string& json, const std::string& where);

}  // namespace i3d::core
