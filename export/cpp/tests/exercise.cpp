// Uses the library as applications do, for sanitizers to watch.
//
//     exercise open FILE...               load each file and print its status; errors are expected
//     exercise threads ARTIFACT THREADS   the same answers from one handle and from a handle each
//     exercise stream ARTIFACT FRAMES     one thread gives frames, another takes windows
#include <i3d.hpp>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

int open_all(const std::vector<std::string>& paths) {
    for (const std::string& path : paths) {
        i3d_recognizer* recognizer = nullptr;
        const i3d_status status = i3d_create(path.c_str(), nullptr, &recognizer);
        std::printf("%d %s\n", status, status == I3D_OK ? "" : i3d_last_error());
        if ((status == I3D_OK) != (recognizer != nullptr)) {
            return 1;
        }
        i3d_destroy(recognizer);
    }
    return 0;
}

// Frames of noise of a size and length that depend on a seed.
struct Noise {
    int height;
    int width;
    int num_frames;
    std::vector<std::uint8_t> pixels;

    explicit Noise(unsigned seed)
        : height(40 + static_cast<int>(seed)),
          width(70 - static_cast<int>(seed)),
          num_frames(20 + static_cast<int>(3 * seed)) {
        pixels.resize(static_cast<std::size_t>(height * width * num_frames * 3));
        unsigned state = seed + 1;
        for (std::uint8_t& value : pixels) {
            state = state * 1664525U + 1013904223U;
            value = static_cast<std::uint8_t>(state >> 24U);
        }
    }

    i3d_frames frames() const { return i3d::frames(pixels.data(), num_frames, height, width, I3D_RGB, 25); }
};

int compare_threads(const std::string& artifact, unsigned count) {
    i3d::Options options;
    options.threads = 1;
    const i3d::Recognizer shared(artifact, options);
    std::vector<std::vector<float>> expected;
    for (unsigned number = 0; number < count; ++number) {
        expected.push_back(shared.predict(Noise(number).frames()).logits());
    }
    std::atomic<int> wrong{0};
    const auto work = [&](unsigned number) {
        try {
            const Noise noise(number);
            const i3d::Recognizer own(artifact, options);
            for (const i3d::Recognizer* recognizer : {&shared, &own, &shared}) {
                wrong += recognizer->predict(noise.frames()).logits() != expected[number];
            }
        } catch (const i3d::Error& error) {
            std::fprintf(stderr, "%s\n", error.what());
            ++wrong;
        }
    };
    std::vector<std::thread> threads;
    for (unsigned number = 0; number < count; ++number) {
        threads.emplace_back(work, number);
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    std::printf("%d of %u answers differ\n", wrong.load(), 3 * count);
    return wrong == 0 ? 0 : 1;
}

int run_stream(const std::string& artifact, int count) {
    const Noise noise(0);
    i3d::StreamOptions options;
    options.frames_per_second = 25;
    options.every_seconds = 0.2;
    i3d::Stream stream(i3d::Recognizer(artifact), options);
    std::thread giver([&] {
        const std::size_t frame_bytes = noise.pixels.size() / static_cast<std::size_t>(noise.num_frames);
        for (int number = 0; number < count; ++number) {
            const auto index = static_cast<std::size_t>(number % noise.num_frames);
            // Half-way frames change their size, and later they pause.
            const int height = noise.height - (number < count / 2 ? 0 : 1);
            const double seconds = number / 30.0 + (number < 3 * count / 4 ? 0 : 3);
            stream.push(i3d::image(noise.pixels.data() + index * frame_bytes, height, noise.width), seconds);
        }
        stream.end();
    });
    int windows = 0;
    std::int64_t dropped = 0;
    std::size_t warnings = 0;
    while (const auto found = stream.next()) {
        ++windows;
        warnings += found->prediction.warnings().size();
        dropped = found->window.dropped_windows;
    }
    giver.join();
    std::printf("%d windows and %lld dropped, %zu warnings\n", windows, static_cast<long long>(dropped), warnings);
    return stream.has_ended() ? 0 : 1;
}

}  // namespace

int main(int count, char** words) {
    if (count >= 3 && std::strcmp(words[1], "open") == 0) {
        return open_all({words + 2, words + count});
    }
    if (count == 4 && std::strcmp(words[1], "threads") == 0) {
        return compare_threads(words[2], static_cast<unsigned>(std::atoi(words[3])));
    }
    if (count == 4 && std::strcmp(words[1], "stream") == 0) {
        return run_stream(words[2], std::atoi(words[3]));
    }
    return 2;
}
