#include "stream.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "errors.hpp"
#include "ring.hpp"
#include "sampling.hpp"
#include "stream_warnings.hpp"

namespace i3d::core {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kMaxWaitSeconds = 1e9;
// The longest that a window, or the distance of two, can be said to be.
constexpr double kMaxWindowSeconds = 1e6;
// Beyond it, times are no seconds: those of clocks in milliseconds or nanoseconds are.
constexpr double kMaxTimeSeconds = 1e10;

// A copy of a frame of the caller's.
struct Raw {
    std::vector<std::uint8_t> pixels;
    int height;
    int width;
    bool is_bgr;

    FrameView view() const { return {pixels.data(), height, width, std::ptrdiff_t{width} * 3, is_bgr}; }
};

Raw copied(const FrameView& frame) {
    Raw raw{{}, frame.height, frame.width, frame.is_bgr};
    const std::ptrdiff_t row_bytes = std::ptrdiff_t{frame.width} * 3;
    raw.pixels.reserve(static_cast<std::size_t>(row_bytes * frame.height));
    for (int row = 0; row < frame.height; ++row) {
        const std::uint8_t* first = frame.data + row * frame.row_stride;
        raw.pixels.insert(raw.pixels.end(), first, first + row_bytes);
    }
    return raw;
}

void check_option(double value, const char* name, double highest) {
    if (!(value >= 0 && value <= highest)) {
        throw Error(I3D_ERROR_INPUT, std::string(name) + " (" + std::to_string(value) +
                                         ") must be > 0 and <= " + text_of(highest, 6) + ", or 0 for the usual");
    }
}

Cadence cadence_of(const Card& card, const StreamSettings& settings) {
    check_option(settings.window_seconds, "window_seconds", kMaxWindowSeconds);
    check_option(settings.every_seconds, "every_seconds", kMaxWindowSeconds);
    check_option(settings.frames_per_second, "frames_per_second", kMaxRate);
    const double counted_at = card.sampling.frames_per_second;
    if (counted_at > 0 && settings.frames_per_second > 0 && counted_at != settings.frames_per_second) {
        throw Error(I3D_ERROR_INPUT, "frames_per_second (" + std::to_string(settings.frames_per_second) +
                                         ") is for cards without a rate: this one counts " +
                                         std::to_string(counted_at) + " frames a second");
    }
    const double rate = counted_at > 0 ? counted_at : settings.frames_per_second;
    if (!(rate > 0)) {
        throw Error(I3D_ERROR_INPUT, "the card counts frames at no rate: give the frames_per_second of the stream");
    }
    Cadence cadence{rate, window_frames(card.sampling), settings.every_seconds};
    if (settings.window_seconds > 0) {
        cadence.window_frames = static_cast<std::int64_t>(settings.window_seconds * rate + 0.5);
    }
    if (cadence.window_frames < 1 || cadence.window_frames > kMaxWindowFrames) {
        throw Error(I3D_ERROR_INPUT, "a window of " + std::to_string(cadence.window_frames) +
                                         " frames: it must have from 1 to " + std::to_string(kMaxWindowFrames) +
                                         ", all of which are kept in memory");
    }
    if (!(cadence.every_seconds > 0)) {
        cadence.every_seconds = cadence.window_seconds();
    }
    if (cadence.every_seconds * rate < 1 - kSameTimeSeconds) {
        throw Error(I3D_ERROR_INPUT, "every_seconds (" + std::to_string(settings.every_seconds) +
                                         ") must be at least the time of a frame, " + std::to_string(1 / rate) + " s");
    }
    return cadence;
}

template <typename Value>
class StreamOf : public Stream {
public:
    StreamOf(Recognizer& recognizer, const StreamSettings& settings)
        : recognizer_(recognizer),
          settings_(settings),
          cadence_(cadence_of(recognizer.card(), settings)),
          ring_(cadence_, [this](const Raw& raw) { return resized<Value>(recognizer_.card(), raw.view()); }) {
        // Refuse now what would fail with the first window.
        const Card& card = recognizer.card();
        check_crops(card.spatial, settings.protocol.crops);
        frame_indices(card.sampling, cadence_.window_frames, 0, settings.protocol.clips);
        Recognizer::check_batch(settings.batch);
    }

    void push(const FrameView& frame, double seconds) override {
        const Clock::time_point came_at = Clock::now();
        if (!(std::abs(seconds) <= kMaxTimeSeconds)) {
            throw Error(I3D_ERROR_INPUT,
                        "the time of a frame (" + std::to_string(seconds) + ") must be in seconds, at most 1e10");
        }
        if (has_been_ended()) {
            throw Error(I3D_ERROR_INPUT, "the stream has ended: begin another one");
        }
        resized_size(recognizer_.card().spatial, frame.height, frame.width);
        const std::string size = std::to_string(frame.width) + "x" + std::to_string(frame.height);
        const bool has_changed = !size_.empty() && size != size_;
        if (has_changed) {
            ring_.restart();
        }
        std::vector<Window<Shared<Value>>> windows = ring_.add(copied(frame), seconds);
        const double pause_seconds = latest_seconds_ ? seconds - *latest_seconds_ : 0;
        breaks_.add(
            {cadence_.spans(pause_seconds) ? 0 : pause_seconds, false, has_changed ? size_ + " to " + size : ""});
        size_ = size;
        latest_seconds_ = seconds;
        hand_over(std::move(windows), came_at);
    }

    void restart() override {
        ring_.restart();
        breaks_.is_lost = !size_.empty();
        latest_seconds_.reset();  // times may begin anywhere: how long the connection was lost is not known
    }

    void end(double frame_seconds) override {
        if (!(frame_seconds >= 0 && frame_seconds <= cadence_.window_seconds())) {
            throw Error(I3D_ERROR_INPUT, "frame_seconds (" + std::to_string(frame_seconds) +
                                             ") must be >= 0 and <= the " + std::to_string(cadence_.window_seconds()) +
                                             " s of a window");
        }
        if (!has_been_ended()) {
            const double lasts = frame_seconds > 0 ? frame_seconds : 1 / cadence_.frames_per_second;
            hand_over(ring_.end(lasts), Clock::now());
        }
        mark_ended();
    }

    void cancel() override {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            newest_.take();
            is_cancelled_ = true;
        }
        mark_ended();
    }

    std::optional<WindowPrediction> next(double wait_seconds) override {
        std::optional<Window<Shared<Value>>> window;
        Breaks breaks;
        WindowPrediction result;
        Clock::time_point came_at;
        {
            std::unique_lock<std::mutex> lock(mutex_);
            const auto is_ready = [this] { return newest_.is_waiting() || has_ended_; };
            if (!(wait_seconds >= 0)) {
                changed_.wait(lock, is_ready);
            } else {
                changed_.wait_for(lock, std::chrono::duration<double>(std::min(wait_seconds, kMaxWaitSeconds)),
                                  is_ready);
            }
            window = newest_.take();
            breaks = std::exchange(waiting_breaks_, {});
            came_at = came_at_;
            result.dropped = {newest_.dropped_windows(), newest_.dropped_frames()};
            if (!window && has_ended_ && !is_cancelled_ && num_windows_ == 0) {
                throw Error(I3D_ERROR_VIDEO, "the stream ended before a window of " +
                                                 std::to_string(cadence_.window_seconds()) + " s was full" +
                                                 about_breaks());
            }
        }
        if (!window) {
            return std::nullopt;
        }
        const Views<Value> views(recognizer_.card(), window->frames, settings_.protocol);
        result.prediction = recognizer_.predict_views(views, settings_.batch);
        for (const std::vector<std::string>& lines : {warnings_of(*window, views.taken()), breaks.lines()}) {
            std::vector<std::string>& told = result.prediction.warnings;
            told.insert(told.end(), lines.begin(), lines.end());
        }
        result.start_seconds = window->start_seconds;
        result.end_seconds = window->end_seconds;
        result.lag_seconds = std::chrono::duration<double>(Clock::now() - came_at).count();
        return result;
    }

    bool has_ended() const override {
        const std::lock_guard<std::mutex> lock(mutex_);
        return has_ended_ && !newest_.is_waiting();
    }

    Dropped dropped() const override {
        const std::lock_guard<std::mutex> lock(mutex_);
        return {newest_.dropped_windows(), newest_.dropped_frames()};
    }

private:
    bool has_been_ended() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        return has_ended_;
    }

    // Why windows may not become full; "" where nothing kept them from it.
    std::string about_breaks() const {
        if (widest_gap_seconds_ == 0) {
            return sizes_.empty() ? ""
                                  : ": its frames changed from " + sizes_ + ", and no window spans a change of size";
        }
        return ": its frames are up to " + std::to_string(widest_gap_seconds_) +
               " s apart, and no window spans a gap longer than itself: give longer windows, and times in seconds";
    }

    void mark_ended() {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            has_ended_ = true;
        }
        changed_.notify_all();
    }

    void hand_over(std::vector<Window<Shared<Value>>> windows, Clock::time_point came_at) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            widest_gap_seconds_ = ring_.widest_gap_seconds();
            sizes_ = breaks_.sizes;
            for (Window<Shared<Value>>& window : windows) {
                newest_.put(std::move(window));
                waiting_breaks_.add(std::exchange(breaks_, {}));
                ++num_windows_;
                came_at_ = came_at;
            }
        }
        changed_.notify_all();
    }

    Recognizer& recognizer_;
    StreamSettings settings_;
    Cadence cadence_;
    Ring<Raw, Shared<Value>> ring_;
    std::string size_;                      // of the latest frame
    std::optional<double> latest_seconds_;  // its time, where the next one's is later
    Breaks breaks_;                         // before the window that is being filled
    mutable std::mutex mutex_;              // of what follows
    std::condition_variable changed_;
    Newest<Shared<Value>> newest_;
    Breaks waiting_breaks_;  // before the window that waits
    Clock::time_point came_at_;
    std::int64_t num_windows_ = 0;
    double widest_gap_seconds_ = 0;
    std::string sizes_;
    bool has_ended_ = false;
    bool is_cancelled_ = false;
};

}  // namespace

std::unique_ptr<Stream> make_stream(Recognizer& recognizer, const StreamSettings& settings) {
    if (recognizer.card().has_float_pixels()) {
        return std::make_unique<StreamOf<float>>(recognizer, settings);
    }
    return std::make_unique<StreamOf<std::uint8_t>>(recognizer, settings);
}

}  // namespace i3d::core
