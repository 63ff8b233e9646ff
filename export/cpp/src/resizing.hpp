// Resizing frames: bilinear with half-pixel centers and without antialiasing, as OpenCV's INTER_LINEAR: bit for bit in
// uint8, to the last bits in float32, where OpenCV's own builds differ.
//
// Views must be those of the Python runtime, which resizes with OpenCV; a library that needs OpenCV only for this would
// hardly be embedded. uint8 follows its fixed-point arithmetic (11 bits for a weight), which no other library's does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace i3d::core {

// Frames are RGB.
constexpr int kChannels = 3;

// Frame of the caller's: H x W pixels of three interleaved bytes.
struct FrameView {
    const std::uint8_t* data;
    int height;
    int width;
    std::ptrdiff_t row_stride;  // bytes from a row to the next one
    bool is_bgr;
};

// Resized frame of our own, RGB: H x W x 3 without gaps.
template <typename Value>
struct Resized {
    int height = 0;
    int width = 0;
    std::vector<Value> pixels;
};

// Resize a frame to height x width; one that has this size is copied.
void resize(const FrameView& frame, int height, int width, Resized<std::uint8_t>& out);

// The same in float32: values are not rounded.
void resize(const FrameView& frame, int height, int width, Resized<float>& out);

}  // namespace i3d::core
