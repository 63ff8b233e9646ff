// Which frames make which clip, from numbers alone: i3d_deploy/sampling.py for testing, in C++.
#pragma once

#include <cstdint>
#include <vector>

#include "card.hpp"

namespace i3d::core {

// Frames of clips x clip_len, clip after clip, each in [0, num_frames).
struct Indices {
    std::size_t clips = 0;
    std::size_t clip_len = 0;
    std::vector<std::int64_t> frames;

    std::int64_t at(std::size_t clip, std::size_t position) const { return frames[clip * clip_len + position]; }
};

// Longest clip of a whole video, and most clips of a video: those of the Python runtime.
constexpr std::int64_t kMaxWholeFrames = 1500;
constexpr int kMaxClips = 1000;

// Longest video, in frames, and the rates that one can be said to have: those of the Python runtime.
constexpr std::int64_t kMaxFrames = std::int64_t{1} << 40;
constexpr double kMinRate = 0.1;
constexpr double kMaxRate = 1000;

// Refuse a length or a rate that no video has; 0 is a rate that is not known.
void check_length(std::int64_t num_frames, double frames_per_second);

// Choose the frames of a video.
//   frames_per_second: of the video; 0 where it is not known: that of the card.
//   num_clips: 0: the card's.
// Throws Error: several clips are asked of a whole video, or it is too long.
Indices frame_indices(const Sampling& sampling, std::int64_t num_frames, double frames_per_second, int num_clips);

// Frames that a clip spans, from its first to its last one: in a shorter video they are repeated.
std::int64_t span(const Sampling& sampling, double frames_per_second);

// Frames, at the card's rate, of the shortest video of which a clip repeats none; of whole videos, of a clip of the
// usual length.
std::int64_t window_frames(const Sampling& sampling);

}  // namespace i3d::core
