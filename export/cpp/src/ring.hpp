// Which frames of a stream make which window, from times alone: i3d_deploy/stream_windows.py in C++.
//
// Frames are counted at a rate, from the first one on: moment k is k / rate seconds after it, and shows the frame that
// is nearest in time, of two the later one. A moment is settled when a frame of its own time or a later one has come.
// Where none comes for longer than a window, counting begins anew with the next frame. Window n begins with the frame
// nearest to n * every_seconds and has always the same number of frames. Where counting begins anew, window 0 begins
// with the first frame that is every_seconds or more after the beginning of the latest whole window.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "errors.hpp"

namespace i3d::core {

// Of a window, which are all in memory.
constexpr std::int64_t kMaxWindowFrames = 3000;

// Times are sums of fractions: so close together, they are the same.
constexpr double kSameTimeSeconds = 1e-6;

// How windows follow each other.
struct Cadence {
    double frames_per_second;
    std::int64_t window_frames;
    double every_seconds;

    double window_seconds() const { return static_cast<double>(window_frames) / frames_per_second; }

    // Whether a window spans so long a time without a frame.
    bool spans(double gap_seconds) const { return gap_seconds <= window_seconds() + kSameTimeSeconds; }

    // The first frame of a window.
    std::int64_t first_frame(std::int64_t number) const {
        return static_cast<std::int64_t>(
            std::floor(static_cast<double>(number) * std::max(1.0, every_seconds * frames_per_second) + 0.5));
    }
};

template <typename Kept>
struct Window {
    std::vector<Kept> frames;
    std::vector<double> shown_seconds;  // of each frame: of one that is repeated, each time the same
    std::int64_t start_frame = 0;
    double start_seconds = 0;
    double end_seconds = 0;  // when the last frame ends

    std::int64_t end_frame() const { return start_frame + static_cast<std::int64_t>(frames.size()); }
};

// The latest frames at a rate, cut into windows. A frame is an Item when it comes and is Kept if it is in a window.
template <typename Item, typename Kept>
class Ring {
public:
    using Keep = std::function<Kept(const Item&)>;
    using Windows = std::vector<Window<Kept>>;

    Ring(const Cadence& cadence, Keep keep) : cadence_(cadence), keep_(std::move(keep)) {}

    // Take a frame; returns the windows that are complete with it. Throws Error: it is not later than the one before.
    Windows add(Item item, double seconds) {
        if (latest_ && !(seconds > latest_->seconds)) {
            throw Error(I3D_ERROR_INPUT, "a frame of " + std::to_string(seconds) + " s follows one of " +
                                             std::to_string(latest_->seconds) + " s: times must ascend");
        }
        if (latest_ && !cadence_.spans(seconds - latest_->seconds)) {
            widest_gap_seconds_ = std::max(widest_gap_seconds_, seconds - latest_->seconds);
            restart();
        }
        Windows windows;
        if (latest_) {
            fill((latest_->seconds + seconds) / 2 - kSameTimeSeconds, windows);
        } else {
            begin(seconds);
        }
        latest_ = Latest{std::move(item), seconds, std::nullopt};
        fill(seconds + kSameTimeSeconds, windows);
        return windows;
    }

    // Learn that no frame follows, and how long the last one lasts.
    Windows end(double frame_seconds) {
        Windows windows;
        if (latest_) {
            fill(latest_->seconds + frame_seconds - 0.5 / cadence_.frames_per_second + kSameTimeSeconds, windows);
        }
        return windows;
    }

    // Begin anew with the next frame; numbers of frames go on.
    void restart() {
        frames_.clear();
        shown_seconds_.clear();
        latest_.reset();
        num_windows_ = 0;
    }

    // The longest time that no frame came for, where that was longer than a window; else 0.
    double widest_gap_seconds() const { return widest_gap_seconds_; }

private:
    // A frame that may be shown at several moments, or at none.
    struct Latest {
        Item item;
        double seconds;
        std::optional<Kept> kept;
    };

    // Count from a frame on.
    void begin(double seconds) {
        origin_seconds_ = seconds;
        origin_frame_ = num_frames_;
        const double wait_seconds = next_start_seconds_ - seconds - kSameTimeSeconds;
        // A longer wait: times went back, and the latest window is in another time.
        const bool is_waiting = wait_seconds > 0 && wait_seconds <= cadence_.every_seconds;
        const double frames = is_waiting ? std::ceil(wait_seconds * cadence_.frames_per_second) : 0;
        first_start_ = num_frames_ + static_cast<std::int64_t>(frames);
    }

    double seconds_of(std::int64_t frame) const {
        return origin_seconds_ + static_cast<double>(frame - origin_frame_) / cadence_.frames_per_second;
    }

    // Show the latest frame at all moments that are not settled, to a time.
    void fill(double until, Windows& windows) {
        while (seconds_of(num_frames_) <= until) {
            const std::int64_t start = first_start_ + cadence_.first_frame(num_windows_);
            if (num_frames_ >= start) {
                if (!latest_->kept) {
                    latest_->kept = keep_(latest_->item);
                }
                frames_.push_back(*latest_->kept);
                shown_seconds_.push_back(latest_->seconds);
                if (static_cast<std::int64_t>(frames_.size()) > cadence_.window_frames) {
                    frames_.pop_front();
                    shown_seconds_.pop_front();
                }
            }
            ++num_frames_;
            if (num_frames_ >= start + cadence_.window_frames) {
                ++num_windows_;
                next_start_seconds_ = seconds_of(start) + cadence_.every_seconds;
                windows.push_back({{frames_.begin(), frames_.end()},
                                   {shown_seconds_.begin(), shown_seconds_.end()},
                                   start,
                                   seconds_of(start),
                                   seconds_of(num_frames_)});
            }
        }
    }

    Cadence cadence_;
    Keep keep_;
    std::deque<Kept> frames_;
    std::deque<double> shown_seconds_;
    std::optional<Latest> latest_;
    double origin_seconds_ = 0;
    double next_start_seconds_ = -std::numeric_limits<double>::infinity();
    std::int64_t first_start_ = 0;
    double widest_gap_seconds_ = 0;
    std::int64_t origin_frame_ = 0;
    std::int64_t num_frames_ = 0;
    std::int64_t num_windows_ = 0;
};

// Room for one window that waits to be predicted: an older one is dropped for a newer one, and counted.
template <typename Kept>
class Newest {
public:
    void put(Window<Kept> window) {
        if (waiting_) {
            ++dropped_windows_;
            // Later windows begin no earlier than this one: frames before it are not seen any more.
            const std::int64_t first = std::max(waiting_->start_frame, settled_);
            const std::int64_t last = std::min(waiting_->end_frame(), window.start_frame);
            dropped_frames_ += std::max<std::int64_t>(last - first, 0);
            settled_ = std::max(settled_, last);
        }
        waiting_ = std::move(window);
    }

    std::optional<Window<Kept>> take() {
        std::optional<Window<Kept>> window = std::move(waiting_);
        waiting_.reset();
        if (window) {
            settled_ = window->end_frame();
        }
        return window;
    }

    bool is_waiting() const { return waiting_.has_value(); }
    std::int64_t dropped_windows() const { return dropped_windows_; }
    std::int64_t dropped_frames() const { return dropped_frames_; }

private:
    std::optional<Window<Kept>> waiting_;
    std::int64_t dropped_windows_ = 0;
    std::int64_t dropped_frames_ = 0;
    std::int64_t settled_ = 0;
};

}  // namespace i3d::core
