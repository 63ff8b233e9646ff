// The C interface: handles, statuses and texts in place of classes and exceptions.
#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>

#include "errors.hpp"
#include "i3d.h"
#include "modules.hpp"
#include "recognizer.hpp"
#include "sources.hpp"
#include "stream.hpp"

namespace core = i3d::core;

static_assert(I3D_VERSION_MAJOR == I3D_BUILD_MAJOR && I3D_VERSION_MINOR == I3D_BUILD_MINOR &&
                  I3D_VERSION_PATCH == I3D_BUILD_PATCH,
              "i3d.h and CMakeLists.txt name different versions");

struct i3d_recognizer {
    core::Recognizer recognizer;
    std::string backend;
    std::string device;
    std::string precision;
};

struct i3d_prediction {
    core::Prediction prediction;
    std::uint32_t num_classes;
};

struct i3d_stream {
    std::unique_ptr<core::Stream> stream;
    std::uint32_t num_classes;
};

namespace {

using core::Error;

thread_local std::string last_error;

// Bytes of the UTF-8 character that begins a text; 0 where there is none.
std::size_t character_size(const unsigned char* text) {
    const unsigned lead = text[0];
    const std::size_t size = lead < 0x80   ? 1
                             : lead < 0xc2 ? 0
                             : lead < 0xe0 ? 2
                             : lead < 0xf0 ? 3
                             : lead < 0xf5 ? 4
                                           : 0;
    for (std::size_t i = 1; i < size; ++i) {
        if ((text[i] & 0xc0U) != 0x80) {
            return 0;
        }
    }
    return size;
}

// A message as one line of UTF-8: backends repeat what they found in damaged files.
std::string one_line(const char* message) {
    std::string line;
    for (const auto* text = reinterpret_cast<const unsigned char*>(message); *text != '\0';) {
        const std::size_t size = character_size(text);
        if (size == 0) {
            line += '?';
        } else if (*text < ' ') {
            line += ' ';
        } else {
            line.append(reinterpret_cast<const char*>(text), size);
        }
        text += size == 0 ? 1 : size;
    }
    return line;
}

i3d_status failed(i3d_status status, const char* message) noexcept {
    try {
        last_error = one_line(message);
    } catch (const std::bad_alloc&) {
        last_error.clear();
    }
    return status;
}

// Run the body of a function of the interface: no exception leaves it.
template <typename Body>
i3d_status guarded(const Body& body) noexcept {
    try {
        body();
        return I3D_OK;
    } catch (const Error& error) {
        return failed(error.status(), error.what());
    } catch (const std::bad_alloc&) {
        return failed(I3D_ERROR_MEMORY, "there is not enough memory: fewer clips or a smaller batch take less");
    } catch (const std::exception& error) {
        return failed(I3D_ERROR_INTERNAL, error.what());
    } catch (...) {
        return failed(I3D_ERROR_INTERNAL, "an unknown exception");
    }
}

void check_given(const void* pointer, const char* name) {
    if (pointer == nullptr) {
        throw Error(I3D_ERROR_INPUT, std::string(name) + " is NULL");
    }
}

// A structure of the caller's with the fields that it had when the caller was compiled, the others being defaults.
template <typename Struct>
Struct filled(const Struct* given, void (*init)(Struct*), const char* name) {
    Struct result;
    init(&result);
    if (given == nullptr) {
        return result;
    }
    if (given->size > sizeof(Struct)) {
        throw Error(I3D_ERROR_INPUT, std::string(name) + ".size (" + std::to_string(given->size) +
                                         ") is more than the " + std::to_string(sizeof(Struct)) +
                                         " that this libi3d, " I3D_VERSION_TEXT
                                         ", knows: run with a libi3d as new as the i3d.h that the caller was compiled "
                                         "with, or compile with the i3d.h of this one, and call " +
                                         name + "_init()");
    }
    if (given->size < sizeof given->size) {
        throw Error(I3D_ERROR_INPUT, std::string(name) + ".size (" + std::to_string(given->size) + ") must be what " +
                                         name + "_init() sets");
    }
    std::memcpy(static_cast<void*>(&result), given, given->size);
    result.size = sizeof(Struct);
    return result;
}

core::Protocol protocol_of(const i3d_run_options& options) { return {options.clips, options.crops}; }

std::unique_ptr<i3d_prediction> predicted(i3d_recognizer* recognizer, core::Source& source,
                                          const i3d_run_options& options) {
    core::Recognizer& inner = recognizer->recognizer;
    auto prediction = inner.predict(source, protocol_of(options), options.batch);
    const auto num_classes = static_cast<std::uint32_t>(inner.card().labels.size());
    return std::unique_ptr<i3d_prediction>(new i3d_prediction{std::move(prediction), num_classes});
}

// Predict what a function opens.
template <typename Open>
i3d_status run(i3d_recognizer* recognizer, const i3d_run_options* options, i3d_prediction** prediction,
               const Open& open) {
    if (prediction != nullptr) {
        *prediction = nullptr;
    }
    return guarded([&] {
        check_given(recognizer, "recognizer");
        check_given(prediction, "prediction");
        const i3d_run_options chosen = filled(options, &i3d_run_options_init, "i3d_run_options");
        const std::unique_ptr<core::Source> source = open();
        *prediction = predicted(recognizer, *source, chosen).release();
    });
}

template <typename Value>
void write_views(const core::Views<Value>& views, void* out) {
    auto* values = static_cast<Value*>(out);
    for (std::size_t number = 0; number < views.size(); ++number) {
        views.cut(number, values + number * views.values_per_view());
    }
}

// Bytes of all views of a video.
std::uint64_t bytes_of_views(const core::Card& card, const i3d_frames& frames, core::Protocol protocol) {
    core::check_crops(card.spatial, protocol.crops);
    const core::Indices indices =
        core::frame_indices(card.sampling, frames.num_frames, frames.frames_per_second, protocol.clips);
    const auto crops = static_cast<std::uint64_t>(protocol.crops == 0 ? card.spatial.num_crops : protocol.crops);
    const auto side = static_cast<std::uint64_t>(card.spatial.crop_size);
    const std::uint64_t value_bytes = card.has_float_pixels() ? sizeof(float) : 1;
    return crops * indices.frames.size() * side * side * core::kChannels * value_bytes;
}

}  // namespace

const char* i3d_last_error(void) { return last_error.c_str(); }

const char* i3d_version(void) { return I3D_VERSION_TEXT; }

i3d_status i3d_check_backend(const char* name) {
    return guarded([&] {
        check_given(name, "name");
        core::open_engine_of(name);
    });
}

int32_t i3d_reads_files(void) { return core::reads_files() ? 1 : 0; }

i3d_status i3d_create(const char* path, const i3d_options* options, i3d_recognizer** recognizer) {
    if (recognizer != nullptr) {
        *recognizer = nullptr;
    }
    return guarded([&] {
        check_given(path, "path");
        check_given(recognizer, "recognizer");
        const i3d_options chosen = filled(options, &i3d_options_init, "i3d_options");
        const std::string device = chosen.device == nullptr ? "auto" : chosen.device;
        std::unique_ptr<i3d_recognizer> made(new i3d_recognizer{{path, device, chosen.threads}, "", "", ""});
        made->backend = made->recognizer.engine().backend();
        made->device = made->recognizer.engine().device();
        made->precision = made->recognizer.engine().precision();
        *recognizer = made.release();
    });
}

void i3d_destroy(i3d_recognizer* recognizer) { delete recognizer; }

i3d_status i3d_describe(const i3d_recognizer* recognizer, i3d_description* description) {
    return guarded([&] {
        check_given(recognizer, "recognizer");
        check_given(description, "description");
        const std::uint32_t size = description->size;
        filled(description, &i3d_description_init, "i3d_description");  // checks the size
        const core::Card& card = recognizer->recognizer.card();
        i3d_description result{};
        result.size = size;
        result.num_classes = static_cast<std::uint32_t>(card.labels.size());
        result.clip_len = static_cast<std::uint32_t>(card.sampling.clip_len);
        result.frame_interval = static_cast<std::uint32_t>(card.sampling.frame_interval);
        result.num_clips = static_cast<std::uint32_t>(card.sampling.num_clips);
        result.num_crops = static_cast<std::uint32_t>(card.spatial.num_crops);
        result.crop_size = static_cast<std::uint32_t>(card.spatial.crop_size);
        result.takes_whole_videos = card.has_fixed_length() ? 0 : 1;
        result.has_float_pixels = card.has_float_pixels() ? 1 : 0;
        result.frames_per_second = card.sampling.frames_per_second;
        result.network = card.network.c_str();
        result.label_set = card.label_set.c_str();
        result.precision = recognizer->precision.c_str();
        result.backend = recognizer->backend.c_str();
        result.device = recognizer->device.c_str();
        result.card = card.json.c_str();
        std::memcpy(description, &result, size);
    });
}

const char* i3d_label(const i3d_recognizer* recognizer, uint32_t index) {
    if (recognizer == nullptr || index >= recognizer->recognizer.card().labels.size()) {
        return nullptr;
    }
    return recognizer->recognizer.card().labels[index].c_str();
}

i3d_status i3d_run(i3d_recognizer* recognizer, const i3d_frames* frames, const i3d_run_options* options,
                   i3d_prediction** prediction) {
    return run(recognizer, options, prediction, [&] {
        check_given(frames, "frames");
        return core::source_of(filled(frames, &i3d_frames_init, "i3d_frames"));
    });
}

i3d_status i3d_run_reader(i3d_recognizer* recognizer, const i3d_reader* reader, const i3d_run_options* options,
                          i3d_prediction** prediction) {
    return run(recognizer, options, prediction, [&] {
        check_given(reader, "reader");
        return core::source_of(filled(reader, &i3d_reader_init, "i3d_reader"));
    });
}

i3d_status i3d_run_file(i3d_recognizer* recognizer, const char* path, const i3d_run_options* options,
                        i3d_prediction** prediction) {
    return run(recognizer, options, prediction, [&] {
        check_given(path, "path");
        return core::open_file(path);
    });
}

void i3d_prediction_destroy(i3d_prediction* prediction) { delete prediction; }

const float* i3d_probabilities(const i3d_prediction* prediction) {
    return prediction == nullptr ? nullptr : prediction->prediction.probabilities.data();
}

const float* i3d_logits(const i3d_prediction* prediction) {
    return prediction == nullptr ? nullptr : prediction->prediction.logits.data();
}

uint32_t i3d_num_classes(const i3d_prediction* prediction) {
    return prediction == nullptr ? 0 : prediction->num_classes;
}

uint32_t i3d_num_views(const i3d_prediction* prediction) {
    return prediction == nullptr ? 0 : static_cast<uint32_t>(prediction->prediction.num_views);
}

int64_t i3d_num_frames(const i3d_prediction* prediction) {
    return prediction == nullptr ? 0 : prediction->prediction.num_frames;
}

const char* i3d_warning(const i3d_prediction* prediction, uint32_t number) {
    if (prediction == nullptr || number >= prediction->prediction.warnings.size()) {
        return nullptr;
    }
    return prediction->prediction.warnings[number].c_str();
}

uint32_t i3d_top(const i3d_prediction* prediction, uint32_t count, uint32_t* indices) {
    if (prediction == nullptr || indices == nullptr) {
        return 0;
    }
    std::uint32_t written = 0;
    guarded([&] {
        for (const std::uint32_t index : prediction->prediction.top(count)) {
            indices[written++] = index;
        }
    });
    return written;
}

i3d_status i3d_stream_create(i3d_recognizer* recognizer, const i3d_stream_options* options, i3d_stream** stream) {
    if (stream != nullptr) {
        *stream = nullptr;
    }
    return guarded([&] {
        check_given(recognizer, "recognizer");
        check_given(stream, "stream");
        const i3d_stream_options chosen = filled(options, &i3d_stream_options_init, "i3d_stream_options");
        core::StreamSettings settings;
        settings.window_seconds = chosen.window_seconds;
        settings.every_seconds = chosen.every_seconds;
        settings.frames_per_second = chosen.frames_per_second;
        settings.protocol = {chosen.clips == 0 ? 1 : chosen.clips, chosen.crops == 0 ? 1 : chosen.crops};
        settings.batch = chosen.batch;
        const auto num_classes = static_cast<std::uint32_t>(recognizer->recognizer.card().labels.size());
        *stream = new i3d_stream{core::make_stream(recognizer->recognizer, settings), num_classes};
    });
}

void i3d_stream_destroy(i3d_stream* stream) { delete stream; }

i3d_status i3d_stream_push(i3d_stream* stream, const i3d_image* image, double seconds) {
    return guarded([&] {
        check_given(stream, "stream");
        check_given(image, "image");
        stream->stream->push(core::checked(*image), seconds);
    });
}

i3d_status i3d_stream_restart(i3d_stream* stream) {
    return guarded([&] {
        check_given(stream, "stream");
        stream->stream->restart();
    });
}

i3d_status i3d_stream_end(i3d_stream* stream, double frame_seconds) {
    return guarded([&] {
        check_given(stream, "stream");
        stream->stream->end(frame_seconds);
    });
}

i3d_status i3d_stream_cancel(i3d_stream* stream) {
    return guarded([&] {
        check_given(stream, "stream");
        stream->stream->cancel();
    });
}

i3d_status i3d_stream_next(i3d_stream* stream, double wait_seconds, i3d_window* window, i3d_prediction** prediction) {
    if (prediction != nullptr) {
        *prediction = nullptr;
    }
    return guarded([&] {
        check_given(stream, "stream");
        check_given(window, "window");
        check_given(prediction, "prediction");
        const std::uint32_t size = window->size;
        filled(window, &i3d_window_init, "i3d_window");  // checks the size
        i3d_window result{};
        result.size = size;
        std::optional<core::WindowPrediction> found = stream->stream->next(wait_seconds);
        std::unique_ptr<i3d_prediction> made;
        if (found) {
            result.start_seconds = found->start_seconds;
            result.end_seconds = found->end_seconds;
            result.lag_seconds = found->lag_seconds;
            made.reset(new i3d_prediction{std::move(found->prediction), stream->num_classes});
        } else {
            result.has_ended = stream->stream->has_ended() ? 1 : 0;
        }
        const core::Dropped dropped = found ? found->dropped : stream->stream->dropped();
        result.dropped_windows = dropped.windows;
        result.dropped_frames = dropped.frames;
        std::memcpy(window, &result, size);
        *prediction = made.release();
    });
}

i3d_status i3d_frame_indices(const i3d_recognizer* recognizer, int64_t num_frames, double frames_per_second,
                             const i3d_run_options* options, int64_t* indices, uint64_t capacity, uint64_t* clips,
                             uint64_t* clip_len) {
    return guarded([&] {
        check_given(recognizer, "recognizer");
        check_given(clips, "clips");
        check_given(clip_len, "clip_len");
        const i3d_run_options chosen = filled(options, &i3d_run_options_init, "i3d_run_options");
        const core::Indices found =
            core::frame_indices(recognizer->recognizer.card().sampling, num_frames, frames_per_second, chosen.clips);
        *clips = found.clips;
        *clip_len = found.clip_len;
        if (indices == nullptr) {
            return;
        }
        if (capacity < found.frames.size()) {
            throw Error(I3D_ERROR_INPUT, "capacity (" + std::to_string(capacity) +
                                             ") must be >= " + std::to_string(found.frames.size()) + " numbers");
        }
        std::copy(found.frames.begin(), found.frames.end(), indices);
    });
}

i3d_status i3d_views(const i3d_recognizer* recognizer, const i3d_frames* frames, const i3d_run_options* options,
                     void* views, uint64_t capacity, uint64_t* size) {
    return guarded([&] {
        check_given(recognizer, "recognizer");
        check_given(frames, "frames");
        check_given(size, "size");
        const core::Card& card = recognizer->recognizer.card();
        const core::Protocol protocol = protocol_of(filled(options, &i3d_run_options_init, "i3d_run_options"));
        const i3d_frames given = filled(frames, &i3d_frames_init, "i3d_frames");
        *size = bytes_of_views(card, given, protocol);
        if (views == nullptr) {
            return;
        }
        if (capacity < *size) {
            throw Error(I3D_ERROR_INPUT, "capacity (" + std::to_string(capacity) + ") must be >= the " +
                                             std::to_string(*size) + " bytes of all views");
        }
        const std::unique_ptr<core::Source> source = core::source_of(given);
        if (card.has_float_pixels()) {
            write_views(core::Views<float>(card, *source, protocol), views);
        } else {
            write_views(core::Views<std::uint8_t>(card, *source, protocol), views);
        }
    });
}
