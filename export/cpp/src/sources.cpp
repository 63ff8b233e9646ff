#include "sources.hpp"

#include <cmath>
#include <cstdlib>

#include "errors.hpp"

namespace i3d::core {
namespace {

constexpr std::int32_t kMaxSide = 65536;

// Frames whose number is known and of which each can be had by its index.
class CountedSource : public Source {
public:
    CountedSource(std::int64_t num_frames, double frames_per_second)
        : num_frames_(num_frames), frames_per_second_(frames_per_second) {
        check_length(num_frames, frames_per_second);
    }

    Reading read(const Choose& choose, const Take& take) override {
        Reading reading;
        reading.num_frames = num_frames_;
        reading.frames_per_second = frames_per_second_;
        reading.indices = choose(num_frames_, frames_per_second_);
        for (const std::int64_t index : unique(reading.indices)) {
            take(index, frame(index));
        }
        return reading;
    }

private:
    virtual FrameView frame(std::int64_t index) = 0;

    std::int64_t num_frames_;
    double frames_per_second_;
};

class ReaderSource : public CountedSource {
public:
    explicit ReaderSource(const i3d_reader& reader)
        : CountedSource(reader.num_frames, reader.frames_per_second), reader_(reader) {
        if (reader.read == nullptr) {
            throw Error(I3D_ERROR_INPUT, "reader.read is NULL: give the function that gives frames");
        }
    }

private:
    FrameView frame(std::int64_t index) override {
        i3d_image image;
        i3d_image_init(&image);
        const std::int32_t code = reader_.read(reader_.user, index, &image);
        if (code != 0) {
            throw Error(I3D_ERROR_VIDEO, "frame " + std::to_string(index) + " could not be read: reader.read gave " +
                                             std::to_string(code));
        }
        if (image.data == nullptr) {
            throw Error(I3D_ERROR_INPUT, "frame " + std::to_string(index) + ": reader.read gave 0 and set no data");
        }
        return checked(image);
    }

    i3d_reader reader_;
};

class MemorySource : public CountedSource {
public:
    explicit MemorySource(const i3d_frames& frames) : CountedSource(frames.num_frames, frames.frames_per_second) {
        first_ =
            checked({sizeof(i3d_image), frames.color, frames.data, frames.height, frames.width, frames.row_stride});
        const std::int64_t all_rows = std::abs(static_cast<std::int64_t>(first_.row_stride)) * frames.height;
        frame_stride_ = frames.frame_stride == 0 ? all_rows : frames.frame_stride;
        const std::int64_t most = INT64_MAX / frames.num_frames;
        if (frame_stride_ < -most || frame_stride_ > most) {
            throw Error(I3D_ERROR_INPUT, "frame_stride (" + std::to_string(frame_stride_) + ") is too large");
        }
    }

private:
    FrameView frame(std::int64_t index) override {
        FrameView frame = first_;
        frame.data += index * frame_stride_;
        return frame;
    }

    FrameView first_{};
    std::int64_t frame_stride_ = 0;
};

}  // namespace

FrameView checked(const i3d_image& image) {
    if (image.size != sizeof(i3d_image)) {
        throw Error(I3D_ERROR_INPUT,
                    "i3d_image.size (" + std::to_string(image.size) + ") must be what i3d_image_init() sets");
    }
    if (image.data == nullptr) {
        throw Error(I3D_ERROR_INPUT, "the data of the frames is NULL");
    }
    if (image.height < 1 || image.width < 1 || image.height > kMaxSide || image.width > kMaxSide) {
        throw Error(I3D_ERROR_INPUT, "frames of " + std::to_string(image.width) + "x" + std::to_string(image.height) +
                                         ": sides must be > 0 and <= " + std::to_string(kMaxSide));
    }
    if (image.color != I3D_RGB && image.color != I3D_BGR) {
        throw Error(I3D_ERROR_INPUT, "color (" + std::to_string(image.color) + ") must be I3D_RGB or I3D_BGR");
    }
    const std::int64_t row_bytes = std::int64_t{image.width} * kChannels;
    const std::int64_t row_stride = image.row_stride == 0 ? row_bytes : image.row_stride;
    if (row_stride > -row_bytes && row_stride < row_bytes) {
        throw Error(I3D_ERROR_INPUT, "row_stride (" + std::to_string(image.row_stride) + ") must be at least the " +
                                         std::to_string(row_bytes) + " bytes of a row, or 0 for rows side by side");
    }
    if (row_stride < -(INT64_MAX / kMaxSide) || row_stride > INT64_MAX / kMaxSide) {
        throw Error(I3D_ERROR_INPUT, "row_stride (" + std::to_string(image.row_stride) + ") is too large");
    }
    return {image.data, image.height, image.width, static_cast<std::ptrdiff_t>(row_stride), image.color == I3D_BGR};
}

std::unique_ptr<Source> source_of(const i3d_frames& frames) { return std::make_unique<MemorySource>(frames); }

std::unique_ptr<Source> source_of(const i3d_reader& reader) { return std::make_unique<ReaderSource>(reader); }

#ifndef I3D_WITH_OPENCV
bool reads_files() { return false; }

std::unique_ptr<Source> open_file(const std::string& path) {
    throw Error(I3D_ERROR_BACKEND, path + ": this libi3d was built without OpenCV and reads no files: give it frames");
}
#endif

}  // namespace i3d::core
