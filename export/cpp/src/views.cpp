#include "views.hpp"

#include <algorithm>
#include <cstdio>

#include "errors.hpp"

namespace i3d::core {
namespace {

constexpr std::int64_t kMaxFrameBytes = std::int64_t{1} << 31;

std::string text(double number) {
    char buffer[32];
    std::snprintf(buffer, sizeof buffer, "%g", number);
    return buffer;
}

void add_warning_of_length(std::int64_t num_frames, std::int64_t least, std::vector<std::string>& warnings) {
    if (num_frames < least) {
        warnings.push_back(too_few(num_frames, "the " + std::to_string(least) + " that a clip spans"));
    }
}

// What had to be assumed of a video's rate, and whether it is too short.
void add_warnings_of_time(const Sampling& sampling, Reading& reading) {
    if (sampling.frames_per_second > 0 && !(reading.frames_per_second > 0)) {
        reading.warnings.push_back("the video does not say its rate: its frames are taken to be " +
                                   text(sampling.frames_per_second) + " a second");
    }
    add_warning_of_length(reading.num_frames, span(sampling, reading.frames_per_second), reading.warnings);
}

}  // namespace

std::string too_few(std::int64_t num_frames, const std::string& than) {
    return num_frames == 1 ? "1 frame is fewer than " + than + ": it is repeated"
                           : std::to_string(num_frames) + " frames are fewer than " + than + ": they are repeated";
}

std::vector<std::int64_t> unique(const Indices& indices) {
    std::vector<std::int64_t> frames = indices.frames;
    std::sort(frames.begin(), frames.end());
    frames.erase(std::unique(frames.begin(), frames.end()), frames.end());
    return frames;
}

template <typename Value>
Shared<Value> resized(const Card& card, const FrameView& frame) {
    const Size size = resized_size(card.spatial, frame.height, frame.width);
    const std::int64_t values = std::int64_t{size.height} * size.width * kChannels;
    if (values > kMaxFrameBytes / static_cast<std::int64_t>(sizeof(Value))) {
        throw Error(I3D_ERROR_CARD, "the card resizes frames to more than 2 GiB each");
    }
    auto result = std::make_shared<Resized<Value>>();
    resize(frame, size.height, size.width, *result);
    return result;
}

template <typename Value>
Views<Value>::Views(const Card& card, Source& source, Protocol protocol) : crop_size_(card.spatial.crop_size) {
    check_crops(card.spatial, protocol.crops);
    Shared<Value> last;
    const auto choose = [&](std::int64_t num_frames, double frames_per_second) {
        by_index_.clear();
        return frame_indices(card.sampling, num_frames, frames_per_second, protocol.clips);
    };
    const auto take = [&](std::int64_t index, const FrameView& frame) {
        const Shared<Value> taken = resized<Value>(card, frame);
        if (!by_index_.empty() && (taken->height != last->height || taken->width != last->width)) {
            throw Error(I3D_ERROR_VIDEO, "the frames have different sizes");
        }
        last = by_index_[index] = taken;
    };
    Reading reading = source.read(choose, take);
    add_warnings_of_time(card.sampling, reading);
    indices_ = std::move(reading.indices);
    boxes_ = crop_boxes(card.spatial, last->height, last->width, protocol.crops);
    num_frames_ = reading.num_frames;
    warnings_ = std::move(reading.warnings);
}

template <typename Value>
Views<Value>::Views(const Card& card, const std::vector<Shared<Value>>& frames, Protocol protocol)
    : crop_size_(card.spatial.crop_size), num_frames_(static_cast<std::int64_t>(frames.size())) {
    indices_ = frame_indices(card.sampling, num_frames_, 0, protocol.clips);
    boxes_ = crop_boxes(card.spatial, frames.front()->height, frames.front()->width, protocol.crops);
    for (const std::int64_t index : unique(indices_)) {
        by_index_[index] = frames[static_cast<std::size_t>(index)];
    }
    add_warning_of_length(num_frames_, span(card.sampling, 0), warnings_);
}

template <typename Value>
std::size_t Views<Value>::values_per_view() const {
    return indices_.clip_len * static_cast<std::size_t>(crop_size_) * static_cast<std::size_t>(crop_size_) * kChannels;
}

template <typename Value>
const Value* Views<Value>::row(std::size_t view, std::size_t position, int row) const {
    const Box& box = boxes_[view / indices_.clips];
    const Resized<Value>& frame = *by_index_.at(indices_.at(view % indices_.clips, position));
    const auto first = static_cast<std::size_t>(box.top + row) * static_cast<std::size_t>(frame.width);
    return frame.pixels.data() + (first + static_cast<std::size_t>(box.left)) * kChannels;
}

template <typename Value>
template <typename Out>
void Views<Value>::cut(std::size_t number, Out* out) const {
    const std::ptrdiff_t row_values = static_cast<std::ptrdiff_t>(crop_size_) * kChannels;
    for (std::size_t position = 0; position < indices_.clip_len; ++position) {
        for (int y = 0; y < crop_size_; ++y) {
            const Value* source = row(number, position, y);
            out = std::copy(source, source + row_values, out);
        }
    }
}

template <typename Value>
void Views<Value>::cut_normalized(std::size_t number, const Card& card, float* out) const {
    for (std::size_t channel = 0; channel < kChannels; ++channel) {
        const float mean = card.mean[channel];
        const auto factor = static_cast<float>(1.0 / static_cast<double>(card.std[channel]));
        for (std::size_t position = 0; position < indices_.clip_len; ++position) {
            for (int y = 0; y < crop_size_; ++y) {
                const Value* source = row(number, position, y) + channel;
                for (int x = 0; x < crop_size_; ++x, source += kChannels) {
                    *out++ = (static_cast<float>(*source) - mean) * factor;
                }
            }
        }
    }
}

template Shared<std::uint8_t> resized(const Card&, const FrameView&);
template Shared<float> resized(const Card&, const FrameView&);
template class Views<std::uint8_t>;
template class Views<float>;
template void Views<std::uint8_t>::cut(std::size_t, std::uint8_t*) const;
template void Views<std::uint8_t>::cut(std::size_t, float*) const;
template void Views<float>::cut(std::size_t, float*) const;

}  // namespace i3d::core
