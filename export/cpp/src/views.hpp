// Views: what the network sees, cut from the unique frames of a video.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "card.hpp"
#include "geometry.hpp"
#include "resizing.hpp"
#include "sampling.hpp"

namespace i3d::core {

// What was read of a video.
struct Reading {
    Indices indices;
    std::int64_t num_frames = 0;
    double frames_per_second = 0;  // 0: not known
    std::vector<std::string> warnings;
};

// Frames of a video, wherever they come from.
class Source {
public:
    // From the number of frames and their rate (0: not known) to those wanted. Called again where the number proved
    // wrong; frames that were taken before are void then.
    using Choose = std::function<Indices(std::int64_t num_frames, double frames_per_second)>;
    // Take a wanted frame; each once, in ascending order. Its pixels are valid during the call.
    using Take = std::function<void(std::int64_t index, const FrameView& frame)>;

    virtual ~Source() = default;
    virtual Reading read(const Choose& choose, const Take& take) = 0;
};

// Say that frames are repeated, since there are fewer than what is given in words.
std::string too_few(std::int64_t num_frames, const std::string& than);

// Each index once, in ascending order.
std::vector<std::int64_t> unique(const Indices& indices);

// Resized frames may belong to several windows of a stream.
template <typename Value>
using Shared = std::shared_ptr<const Resized<Value>>;

// Resize a frame as a card says. Throws Error: it is too narrow to show anything, or would fill the memory.
template <typename Value>
Shared<Value> resized(const Card& card, const FrameView& frame);

// Clips and crops in place of the card's; 0: the card's.
struct Protocol {
    int clips = 0;
    int crops = 0;
};

// The views of one video, cut on demand: all clips under the first crop, then those under the next one.
template <typename Value>
class Views {
public:
    // Throws Error: no usable frame, or the crops do not fit.
    Views(const Card& card, Source& source, Protocol protocol);

    // Of frames that were resized one by one before, and have the card's rate.
    Views(const Card& card, const std::vector<Shared<Value>>& frames, Protocol protocol);

    std::size_t size() const { return boxes_.size() * indices_.clips; }
    std::size_t clip_len() const { return indices_.clip_len; }
    std::size_t values_per_view() const;
    std::int64_t num_frames() const { return num_frames_; }
    std::vector<std::int64_t> taken() const { return unique(indices_); }
    const std::vector<std::string>& warnings() const { return warnings_; }

    // Write a view as (T, H, W, 3).
    template <typename Out>
    void cut(std::size_t number, Out* out) const;

    // Write a view as (3, T, H, W), each value (value - mean) / std.
    void cut_normalized(std::size_t number, const Card& card, float* out) const;

private:
    const Value* row(std::size_t view, std::size_t position, int row) const;

    int crop_size_;
    Indices indices_;
    std::vector<Box> boxes_;
    std::unordered_map<std::int64_t, Shared<Value>> by_index_;
    std::int64_t num_frames_ = 0;
    std::vector<std::string> warnings_;
};

}  // namespace i3d::core
