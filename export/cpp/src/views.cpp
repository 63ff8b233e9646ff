#include "views.hpp"

#include <algorithm>
#include <cstdio>

#include "errors.hpp"

namespace i3d::core {
namespace {

constexpr std::int64_t kMaxFrameBytes = std::int64_t{1} << 31;
constexpr int kChannels = 3;

std::string text(double number) {
    char buffer[32];
    std::snprintf(buffer, sizeof buffer, "%g", number);
    return buffer;
}

// What had to be assumed of a video's rate, and whether it is too short.
void add_warnings_of_time(const Sampling& sampling, Reading& reading) {
    if (sampling.frames_per_second > 0 && !(reading.frames_per_second > 0)) {
        reading.warnings.push_back("the video does not say its rate: its frames are taken to be " +
                                   text(sampling.frames_per_second) + " a second");
    }
    const std::int64_t least = span(sampling, reading.frames_per_second);
    if (reading.num_frames < least) {
        reading.warnings.push_back(std::to_string(reading.num_frames) + " frames are fewer than the " +
                                   std::to_string(least) + " that a clip spans: they are repeated");
    }
}

}  // namespace

std::vector<std::int64_t> unique(const Indices& indices) {
    std::vector<std::int64_t> frames = indices.frames;
    std::sort(frames.begin(), frames.end());
    frames.erase(std::unique(frames.begin(), frames.end()), frames.end());
    return frames;
}

template <typename Value>
Views<Value>::Views(const Card& card, Source& source, Protocol protocol) : crop_size_(card.spatial.crop_size) {
    check_crops(card.spatial, protocol.crops);
    Size size{0, 0};
    const auto choose = [&](std::int64_t num_frames, double frames_per_second) {
        by_index_.clear();
        return frame_indices(card.sampling, num_frames, frames_per_second, protocol.clips);
    };
    const auto take = [&](std::int64_t index, const FrameView& frame) {
        const Size wanted = resized_size(card.spatial, frame.height, frame.width);
        const std::int64_t values = std::int64_t{wanted.height} * wanted.width * kChannels;
        if (values > kMaxFrameBytes / static_cast<std::int64_t>(sizeof(Value))) {
            throw Error(I3D_ERROR_CARD, "the card resizes frames to more than 2 GiB each");
        }
        if (!by_index_.empty() && (wanted.height != size.height || wanted.width != size.width)) {
            throw Error(I3D_ERROR_VIDEO, "the frames have different sizes");
        }
        size = wanted;
        resize(frame, wanted.height, wanted.width, by_index_[index]);
    };
    Reading reading = source.read(choose, take);
    add_warnings_of_time(card.sampling, reading);
    indices_ = std::move(reading.indices);
    boxes_ = crop_boxes(card.spatial, size.height, size.width, protocol.crops);
    num_frames_ = reading.num_frames;
    warnings_ = std::move(reading.warnings);
}

template <typename Value>
std::size_t Views<Value>::values_per_view() const {
    return indices_.clip_len * static_cast<std::size_t>(crop_size_) * static_cast<std::size_t>(crop_size_) * kChannels;
}

template <typename Value>
const Value* Views<Value>::row(std::size_t view, std::size_t position, int row) const {
    const Box& box = boxes_[view / indices_.clips];
    const Resized<Value>& frame = by_index_.at(indices_.at(view % indices_.clips, position));
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

template class Views<std::uint8_t>;
template class Views<float>;
template void Views<std::uint8_t>::cut(std::size_t, std::uint8_t*) const;
template void Views<std::uint8_t>::cut(std::size_t, float*) const;
template void Views<float>::cut(std::size_t, float*) const;

}  // namespace i3d::core
