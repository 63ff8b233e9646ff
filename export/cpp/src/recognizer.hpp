// Video in, labels out: the card's pipeline around an engine.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "artifact.hpp"
#include "card.hpp"
#include "engine.hpp"
#include "views.hpp"

namespace i3d::core {

struct Prediction {
    std::vector<float> logits;         // V x K, a row per view
    std::vector<float> probabilities;  // K, averaged over the views as the card says
    std::size_t num_views = 0;
    std::int64_t num_frames = 0;
    std::vector<std::string> warnings;

    // The most probable classes, best first; equal ones in their order.
    std::vector<std::uint32_t> top(std::size_t count) const;
};

// A loaded engine that takes videos. Any number of threads may use one.
class Recognizer {
public:
    // Throws Error: the engine is missing, damaged, or of a kind that this build or machine does not run.
    Recognizer(const std::string& path, const std::string& device, int threads);

    const Card& card() const { return card_; }
    const Engine& engine() const { return *engine_; }

    // Refuse a number of views per run that is out of range.
    static void check_batch(int batch);

    // Recognise the action in a video.
    //   batch: views per run of the engine; 0: what suits it.
    // Throws Error: no usable frame, an option out of range, or an answer that is not finite.
    Prediction predict(Source& source, Protocol protocol, int batch);

    template <typename Value>
    Prediction predict_views(const Views<Value>& views, int batch);

private:
    void check_fit() const;

    std::string path_;
    Card card_;
    std::unique_ptr<Engine> engine_;
    std::mutex mutex_;
};

// Average the views of one video into one prediction, in double.
//   logits: V x K.
std::vector<float> average_views(const std::vector<float>& logits, std::size_t num_classes, Averaging over);

}  // namespace i3d::core
