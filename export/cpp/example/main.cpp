// An application of your own: it draws a video of a moving square and asks what is done in it.
#include <i3d.hpp>

#include <cstdint>
#include <iostream>
#include <vector>

namespace {

constexpr int kSide = 64;

// A frame in BGR, as cameras and OpenCV give them: a white square that moves to the right.
void draw(int number, std::vector<std::uint8_t>& pixels) {
    pixels.assign(kSide * kSide * 3, 32);
    for (int y = 24; y < 40; ++y) {
        for (int x = number; x < number + 16; ++x) {
            for (int channel = 0; channel < 3; ++channel) {
                pixels[static_cast<std::size_t>((y * kSide + x % kSide) * 3 + channel)] = 224;
            }
        }
    }
}

}  // namespace

int main(int count, char** words) {
    if (count != 2) {
        std::cerr << "usage: example ARTIFACT\n";
        return 2;
    }
    try {
        const i3d::Recognizer recognizer(words[1]);
        std::vector<std::uint8_t> pixels;
        const auto read = [&](std::int64_t index) {
            draw(static_cast<int>(index), pixels);
            return i3d::image(pixels.data(), kSide, kSide, I3D_BGR);
        };
        for (const auto& [label, probability] : recognizer.predict(read, 48, 25.0).top(3)) {
            std::cout << probability << "  " << label << "\n";
        }
        return 0;
    } catch (const i3d::Error& error) {
        std::cerr << error.what() << "\n";
        return 1;
    }
}
