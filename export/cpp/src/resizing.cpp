#include "resizing.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <utility>

namespace i3d::core {
namespace {

constexpr int kWeightBits = 11;
constexpr int kOne = 1 << kWeightBits;

// Where one row or column of the result comes from: two neighbours and their weights.
template <typename Weight>
struct Tap {
    int first;
    int second;
    Weight first_weight;
    Weight second_weight;
};

// What OpenCV computes source coordinates and weights in: for bytes float and fixed point, for floats double and float.
template <typename Weight>
struct Arithmetic;

template <>
struct Arithmetic<float> {
    using Coordinate = double;
    static float weight(float share) { return share; }
};

template <>
struct Arithmetic<std::int32_t> {
    using Coordinate = float;
    static std::int32_t weight(float share) {
        return static_cast<std::int32_t>(std::lrint(share * kOne));  // halves go to the even number
    }
};

template <typename Weight>
std::vector<Tap<Weight>> taps(int from, int to, bool is_clamped) {
    const double scale = 1.0 / (static_cast<double>(to) / from);
    std::vector<Tap<Weight>> result(static_cast<std::size_t>(to));
    for (int position = 0; position < to; ++position) {
        const auto source = static_cast<typename Arithmetic<Weight>::Coordinate>((position + 0.5) * scale - 0.5);
        int first = static_cast<int>(std::floor(source));
        float share = static_cast<float>(source - static_cast<decltype(source)>(first));
        // Only columns lose their weight beyond the border; rows mix the border row with itself.
        if (is_clamped && first < 0) {
            first = 0;
            share = 0;
        }
        if (is_clamped && first >= from - 1) {
            first = from - 1;
            share = 0;
        }
        Tap<Weight>& tap = result[static_cast<std::size_t>(position)];
        tap.first = std::clamp(first, 0, from - 1);
        tap.second = std::clamp(first + 1, 0, from - 1);
        tap.first_weight = Arithmetic<Weight>::weight(1.0F - share);
        tap.second_weight = Arithmetic<Weight>::weight(share);
    }
    return result;
}

template <typename Sum>
void stretch_row(const FrameView& frame, int row, const std::vector<Tap<Sum>>& columns, std::vector<Sum>& out) {
    const std::uint8_t* pixels = frame.data + row * frame.row_stride;
    const int red = frame.is_bgr ? 2 : 0;
    Sum* result = out.data();
    for (const Tap<Sum>& tap : columns) {
        const std::uint8_t* first = pixels + static_cast<std::ptrdiff_t>(tap.first) * kChannels;
        const std::uint8_t* second = pixels + static_cast<std::ptrdiff_t>(tap.second) * kChannels;
        result[0] = static_cast<Sum>(first[red]) * tap.first_weight + static_cast<Sum>(second[red]) * tap.second_weight;
        result[1] = static_cast<Sum>(first[1]) * tap.first_weight + static_cast<Sum>(second[1]) * tap.second_weight;
        result[2] =
            static_cast<Sum>(first[2 - red]) * tap.first_weight + static_cast<Sum>(second[2 - red]) * tap.second_weight;
        result += kChannels;
    }
}

void mix_rows(const std::vector<std::int32_t>& first, const std::vector<std::int32_t>& second,
              const Tap<std::int32_t>& tap, std::uint8_t* out) {
    for (std::size_t i = 0; i < first.size(); ++i) {
        const std::int32_t sum =
            ((tap.first_weight * (first[i] >> 4)) >> 16) + ((tap.second_weight * (second[i] >> 4)) >> 16);
        out[i] = static_cast<std::uint8_t>((sum + 2) >> 2);
    }
}

void mix_rows(const std::vector<float>& first, const std::vector<float>& second, const Tap<float>& tap, float* out) {
    for (std::size_t i = 0; i < first.size(); ++i) {
        out[i] = first[i] * tap.first_weight + second[i] * tap.second_weight;
    }
}

template <typename Value, typename Sum>
void resize_linear(const FrameView& frame, Resized<Value>& out) {
    const std::vector<Tap<Sum>> columns = taps<Sum>(frame.width, out.width, true);
    const std::vector<Tap<Sum>> rows = taps<Sum>(frame.height, out.height, false);
    const std::size_t row_size = static_cast<std::size_t>(out.width) * kChannels;
    std::vector<Sum> first(row_size);
    std::vector<Sum> second(row_size);
    int first_row = -1;
    int second_row = -1;
    for (std::size_t row = 0; row < rows.size(); ++row) {
        const Tap<Sum>& tap = rows[row];
        if (tap.first == second_row) {
            std::swap(first, second);
            std::swap(first_row, second_row);
        }
        if (tap.first != first_row) {
            stretch_row(frame, first_row = tap.first, columns, first);
        }
        if (tap.second == tap.first) {
            mix_rows(first, first, tap, out.pixels.data() + row * row_size);
            continue;
        }
        if (tap.second != second_row) {
            stretch_row(frame, second_row = tap.second, columns, second);
        }
        mix_rows(first, second, tap, out.pixels.data() + row * row_size);
    }
}

template <typename Value>
void copy(const FrameView& frame, Resized<Value>& out) {
    const int red = frame.is_bgr ? 2 : 0;
    Value* result = out.pixels.data();
    for (int row = 0; row < frame.height; ++row) {
        const std::uint8_t* pixel = frame.data + row * frame.row_stride;
        for (int column = 0; column < frame.width; ++column, pixel += kChannels, result += kChannels) {
            result[0] = pixel[red];
            result[1] = pixel[1];
            result[2] = pixel[2 - red];
        }
    }
}

std::uint8_t mean_of_four(int sum, std::uint8_t /*value*/) { return static_cast<std::uint8_t>((sum + 2) >> 2); }
float mean_of_four(int sum, float /*value*/) { return static_cast<float>(sum) * 0.25F; }

// Exactly half: the mean of 2 x 2 pixels, which OpenCV rounds otherwise than two mixes.
template <typename Value>
void halve(const FrameView& frame, Resized<Value>& out) {
    const int red = frame.is_bgr ? 2 : 0;
    const int sources[kChannels] = {red, 1, 2 - red};
    Value* result = out.pixels.data();
    for (int row = 0; row < out.height; ++row) {
        const std::uint8_t* upper = frame.data + 2 * row * frame.row_stride;
        const std::uint8_t* lower = upper + frame.row_stride;
        for (int column = 0; column < out.width; ++column) {
            for (const int source : sources) {
                const int left = 2 * column * kChannels + source;
                const int sum = upper[left] + upper[left + kChannels] + lower[left] + lower[left + kChannels];
                *result++ = mean_of_four(sum, Value{});
            }
        }
    }
}

bool is_half(int from, int to) { return std::abs(1.0 / (static_cast<double>(to) / from) - 2.0) < DBL_EPSILON; }

template <typename Value, typename Sum>
void resize_any(const FrameView& frame, int height, int width, Resized<Value>& out) {
    out.height = height;
    out.width = width;
    out.pixels.resize(static_cast<std::size_t>(height) * static_cast<std::size_t>(width) * kChannels);
    if (frame.height == height && frame.width == width) {
        copy(frame, out);
    } else if (is_half(frame.height, height) && is_half(frame.width, width)) {
        halve(frame, out);
    } else {
        resize_linear<Value, Sum>(frame, out);
    }
}

}  // namespace

void resize(const FrameView& frame, int height, int width, Resized<std::uint8_t>& out) {
    resize_any<std::uint8_t, std::int32_t>(frame, height, width, out);
}

void resize(const FrameView& frame, int height, int width, Resized<float>& out) {
    resize_any<float, float>(frame, height, width, out);
}

}  // namespace i3d::core
