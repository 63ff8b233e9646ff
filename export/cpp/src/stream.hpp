// Predictions of a stream while it comes: one thread gives frames, another computes the newest window.
#pragma once

#include <memory>
#include <optional>

#include "recognizer.hpp"
#include "resizing.hpp"

namespace i3d::core {

struct StreamSettings {
    double window_seconds = 0;     // 0: what a clip of the card spans
    double every_seconds = 0;      // from the beginning of a window to that of the next; 0: one after the other
    double frames_per_second = 0;  // rate that frames are counted at, for cards without one
    Protocol protocol = {1, 1};
    int batch = 0;
};

// Windows that were never taken, and frames that were in such windows only.
struct Dropped {
    std::int64_t windows = 0;
    std::int64_t frames = 0;
};

struct WindowPrediction {
    Prediction prediction;
    double start_seconds = 0;
    double end_seconds = 0;
    double lag_seconds = 0;  // from the coming of the frame that completed the window to the prediction
    Dropped dropped;
};

// push(), restart() and end() belong to one thread at a time, next() to one; they may go on at once.
class Stream {
public:
    virtual ~Stream() = default;

    // Take a frame, whose pixels are copied. Throws Error: it is not later than the one before.
    virtual void push(const FrameView& frame, double seconds) = 0;
    // Frames that follow do not belong to windows with those before: a connection was lost.
    virtual void restart() = 0;
    // No frame follows; how long the last one lasts, at most a window. 0: as at the rate that is counted at.
    virtual void end(double frame_seconds) = 0;
    // End it at once, from any thread.
    virtual void cancel() = 0;

    // Predict the newest window that is complete, waiting for one.
    //   wait_seconds: at most; below 0: as long as it takes.
    // Returns nothing where none came in time or the stream has ended. Throws Error: it ended before any window was
    // full.
    virtual std::optional<WindowPrediction> next(double wait_seconds) = 0;
    // Whether next() will give nothing any more.
    virtual bool has_ended() const = 0;
    // What was dropped so far.
    virtual Dropped dropped() const = 0;
};

// The recognizer must outlive it. Throws Error: a setting is out of range, or the rate is not known.
std::unique_ptr<Stream> make_stream(Recognizer& recognizer, const StreamSettings& settings);

}  // namespace i3d::core
