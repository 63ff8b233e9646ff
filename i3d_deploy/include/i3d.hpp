// i3d.h for C++17: handles that free themselves, exceptions in place of statuses. Header-only; link libi3d.
//
//     i3d::Recognizer recognizer("model.xml");
//     for (const auto& [label, probability] : recognizer.predict_file("clip.mp4").top(5)) ...
//
// Threads: as i3d.h says. A Recognizer may be used by any number of threads at once; a Prediction by one at a time.
#ifndef I3D_HPP
#define I3D_HPP

#if __cplusplus < 201703L
#error "i3d.hpp needs C++17: C programs and older C++ include i3d.h"
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "i3d.h"

namespace i3d {

// A call that failed; what() is the line of i3d_last_error().
class Error : public std::runtime_error {
public:
    Error(i3d_status status, const std::string& message) : std::runtime_error(message), status_(status) {}
    i3d_status status() const noexcept { return status_; }

private:
    i3d_status status_;
};

inline void check(i3d_status status) {
    if (status != I3D_OK) {
        throw Error(status, i3d_last_error());
    }
}

// As of i3d_options.
struct Options {
    int threads = 0;
    std::string device = "auto";
};

// As of i3d_run_options.
struct RunOptions {
    int clips = 0;
    int crops = 0;
    int batch = 0;
};

// An image, or several, of uint8 in memory: as of i3d_frames.
inline i3d_frames frames(const std::uint8_t* data, std::int64_t num_frames, std::int32_t height, std::int32_t width,
                         i3d_color color = I3D_RGB, double frames_per_second = 0) {
    i3d_frames result;
    i3d_frames_init(&result);
    result.color = color;
    result.data = data;
    result.num_frames = num_frames;
    result.height = height;
    result.width = width;
    result.frames_per_second = frames_per_second;
    return result;
}

// One frame in memory: as of i3d_image.
inline i3d_image image(const std::uint8_t* data, std::int32_t height, std::int32_t width, i3d_color color = I3D_RGB,
                       std::int64_t row_stride = 0) {
    i3d_image result;
    i3d_image_init(&result);
    result.color = color;
    result.data = data;
    result.height = height;
    result.width = width;
    result.row_stride = row_stride;
    return result;
}

// Throws Error: the backend was not built, or its libraries do not load here.
inline void check_backend(const std::string& name) { check(i3d_check_backend(name.c_str())); }

// Version of the library, and whether it reads video files.
inline std::string version() { return i3d_version(); }
inline bool reads_files() { return i3d_reads_files() != 0; }

// The frames that make the clips of a video, clip after clip.
struct Indices {
    std::size_t clips = 0;
    std::size_t clip_len = 0;
    std::vector<std::int64_t> frames;
};

// What a network says about one video.
class Prediction {
public:
    Prediction(std::shared_ptr<const i3d_recognizer> recognizer, i3d_prediction* prediction)
        : recognizer_(std::move(recognizer)), prediction_(prediction, &i3d_prediction_destroy) {}

    // The most probable classes, best first.
    std::vector<std::pair<std::string, float>> top(std::uint32_t count = 5) const {
        std::vector<std::uint32_t> indices(std::min(count, i3d_num_classes(prediction_.get())));
        indices.resize(i3d_top(prediction_.get(), static_cast<std::uint32_t>(indices.size()), indices.data()));
        std::vector<std::pair<std::string, float>> result;
        for (const std::uint32_t index : indices) {
            result.emplace_back(i3d_label(recognizer_.get(), index), i3d_probabilities(prediction_.get())[index]);
        }
        return result;
    }

    // (K), averaged over the views.
    std::vector<float> probabilities() const {
        const float* values = i3d_probabilities(prediction_.get());
        return {values, values + i3d_num_classes(prediction_.get())};
    }

    // (V x K), a row per view.
    std::vector<float> logits() const {
        const float* values = i3d_logits(prediction_.get());
        return {values, values + std::size_t{views()} * i3d_num_classes(prediction_.get())};
    }

    std::uint32_t views() const { return i3d_num_views(prediction_.get()); }
    std::int64_t num_frames() const { return i3d_num_frames(prediction_.get()); }

    // What was wrong with the video, a line each.
    std::vector<std::string> warnings() const {
        std::vector<std::string> lines;
        for (std::uint32_t number = 0; const char* line = i3d_warning(prediction_.get(), number); ++number) {
            lines.emplace_back(line);
        }
        return lines;
    }

private:
    std::shared_ptr<const i3d_recognizer> recognizer_;  // keeps the labels
    std::unique_ptr<i3d_prediction, decltype(&i3d_prediction_destroy)> prediction_;
};

// A loaded engine that takes videos. Copies are the same one.
class Recognizer {
public:
    // Gives the frame of an index: as of i3d_read_frame, but for what it returns. An exception ends the prediction and
    // comes out of predict().
    using Read = std::function<i3d_image(std::int64_t index)>;

    // path: an engine that i3d-export wrote: .xml, .onnx or .engine. Throws Error.
    explicit Recognizer(const std::string& path, const Options& options = {}) {
        i3d_options chosen;
        i3d_options_init(&chosen);
        chosen.threads = options.threads;
        chosen.device = options.device.c_str();
        i3d_recognizer* made = nullptr;
        check(i3d_create(path.c_str(), &chosen, &made));
        handle_.reset(made, &i3d_destroy);
    }

    // Throws Error: no usable frame, or an option out of range.
    Prediction predict(const i3d_frames& frames, const RunOptions& options = {}) const {
        return run(options, [&](const i3d_run_options* chosen, i3d_prediction** prediction) {
            return i3d_run(handle_.get(), &frames, chosen, prediction);
        });
    }

    // Predict frames that are read when they are needed.
    Prediction predict(const Read& read, std::int64_t num_frames, double frames_per_second = 0,
                       const RunOptions& options = {}) const {
        Reading reading{read, nullptr};
        i3d_reader reader;
        i3d_reader_init(&reader);
        reader.read = &Reading::give;
        reader.user = &reading;
        reader.num_frames = num_frames;
        reader.frames_per_second = frames_per_second;
        return run(options, [&](const i3d_run_options* chosen, i3d_prediction** prediction) {
            const i3d_status status = i3d_run_reader(handle_.get(), &reader, chosen, prediction);
            if (reading.error) {
                std::rethrow_exception(reading.error);
            }
            return status;
        });
    }

    // Predict a video file, where libi3d was built with OpenCV.
    Prediction predict_file(const std::string& path, const RunOptions& options = {}) const {
        return run(options, [&](const i3d_run_options* chosen, i3d_prediction** prediction) {
            return i3d_run_file(handle_.get(), path.c_str(), chosen, prediction);
        });
    }

    // What it is; texts live as long as the recognizer.
    i3d_description description() const {
        i3d_description result;
        i3d_description_init(&result);
        check(i3d_describe(handle_.get(), &result));
        return result;
    }

    // Name of a class; "" where there is none of that number.
    std::string label(std::uint32_t index) const {
        const char* name = i3d_label(handle_.get(), index);
        return name == nullptr ? "" : name;
    }

    // The frames of a video that are needed. Throws Error: an option out of range.
    Indices frame_indices(std::int64_t num_frames, double frames_per_second = 0, const RunOptions& options = {}) const {
        const i3d_run_options chosen = run_options(options);
        std::uint64_t clips = 0;
        std::uint64_t clip_len = 0;
        const auto ask = [&](std::int64_t* indices, std::uint64_t capacity) {
            check(i3d_frame_indices(handle_.get(), num_frames, frames_per_second, &chosen, indices, capacity, &clips,
                                    &clip_len));
        };
        ask(nullptr, 0);
        Indices result{clips, clip_len, std::vector<std::int64_t>(clips * clip_len)};
        ask(result.frames.data(), result.frames.size());
        return result;
    }

    // The views of a video as bytes of uint8, or of float32 where description() says has_float_pixels.
    std::vector<std::uint8_t> views(const i3d_frames& frames, const RunOptions& options = {}) const {
        const i3d_run_options chosen = run_options(options);
        std::uint64_t size = 0;
        check(i3d_views(handle_.get(), &frames, &chosen, nullptr, 0, &size));
        std::vector<std::uint8_t> result(size);
        check(i3d_views(handle_.get(), &frames, &chosen, result.data(), size, &size));
        return result;
    }

    i3d_recognizer* handle() const noexcept { return handle_.get(); }
    std::shared_ptr<const i3d_recognizer> shared_handle() const { return handle_; }

private:
    struct Reading {
        const Read& read;
        std::exception_ptr error;

        static int32_t give(void* user, int64_t index, i3d_image* image) {
            auto* reading = static_cast<Reading*>(user);
            try {
                *image = reading->read(index);
                return 0;
            } catch (...) {
                reading->error = std::current_exception();
                return 1;
            }
        }
    };

    template <typename Run>
    Prediction run(const RunOptions& options, const Run& run) const {
        const i3d_run_options chosen = run_options(options);
        i3d_prediction* prediction = nullptr;
        check(run(&chosen, &prediction));
        return Prediction(handle_, prediction);
    }

    static i3d_run_options run_options(const RunOptions& options) {
        i3d_run_options chosen;
        i3d_run_options_init(&chosen);
        chosen.clips = options.clips;
        chosen.crops = options.crops;
        chosen.batch = options.batch;
        return chosen;
    }

    std::shared_ptr<i3d_recognizer> handle_;
};

// As of i3d_stream_options.
struct StreamOptions {
    double window_seconds = 0;
    double every_seconds = 0;
    double frames_per_second = 0;
    int clips = 1;
    int crops = 1;
    int batch = 0;
};

// What a network says about one window of a stream; times and counts as of i3d_window.
struct WindowPrediction {
    i3d_window window;
    Prediction prediction;
};

// Predictions of a stream while it comes: one thread gives frames, another computes the newest window.
class Stream {
public:
    // Throws Error: an option is out of range, or the rate is not known.
    explicit Stream(Recognizer recognizer, const StreamOptions& options = {}) : recognizer_(std::move(recognizer)) {
        i3d_stream_options chosen;
        i3d_stream_options_init(&chosen);
        chosen.clips = options.clips;
        chosen.crops = options.crops;
        chosen.batch = options.batch;
        chosen.window_seconds = options.window_seconds;
        chosen.every_seconds = options.every_seconds;
        chosen.frames_per_second = options.frames_per_second;
        i3d_stream* made = nullptr;
        check(i3d_stream_create(recognizer_.handle(), &chosen, &made));
        stream_.reset(made);
    }

    // Give a frame, which is copied, with its time in seconds, later than the one before.
    void push(const i3d_image& image, double seconds) { check(i3d_stream_push(stream_.get(), &image, seconds)); }

    // Frames that follow make no windows with those before.
    void restart() { check(i3d_stream_restart(stream_.get())); }

    // No frame follows; how long the last one lasts. 0: as at the rate that is counted at.
    void end(double frame_seconds = 0) { check(i3d_stream_end(stream_.get(), frame_seconds)); }

    // End it at once, from any thread.
    void cancel() { check(i3d_stream_cancel(stream_.get())); }

    // The newest window; nothing where none comes in time (below 0: as long as it takes) or the stream has ended, which
    // has_ended() tells apart.
    std::optional<WindowPrediction> next(double wait_seconds = -1) {
        i3d_window window;
        i3d_window_init(&window);
        i3d_prediction* prediction = nullptr;
        check(i3d_stream_next(stream_.get(), wait_seconds, &window, &prediction));
        has_ended_ = window.has_ended != 0;
        if (prediction == nullptr) {
            return std::nullopt;
        }
        return WindowPrediction{window, Prediction(recognizer_.shared_handle(), prediction)};
    }

    // Whether the last next() found the end; of its thread.
    bool has_ended() const noexcept { return has_ended_; }

private:
    struct Destroy {
        void operator()(i3d_stream* stream) const { i3d_stream_destroy(stream); }
    };

    Recognizer recognizer_;  // outlives the stream
    std::unique_ptr<i3d_stream, Destroy> stream_;
    bool has_ended_ = false;
};

}  // namespace i3d

#endif
