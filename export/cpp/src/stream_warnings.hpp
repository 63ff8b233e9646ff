// What predictions of a stream say about how its frames came: i3d_deploy/stream_warnings.py in C++.
//
// A source that is slower than its frames are counted at shows frames more than once. That is told of a window where
// fewer than seven tenths of the frames that are taken of it are different. A pause between two frames of a window is
// told from half a second on, where it is three times as long as frames are apart in the median. No window spans a
// pause longer than itself, a lost connection or a change of size: all of these are told of the first window after
// them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "ring.hpp"
#include "views.hpp"

namespace i3d::core {

constexpr double kLeastShare = 0.7;
constexpr double kLeastPauseSeconds = 0.5;
constexpr double kLeastPauseFrames = 3;

// A number with so many digits, as Python's format :.3g writes it.
inline std::string text_of(double number, int digits) {
    char buffer[32];
    std::snprintf(buffer, sizeof buffer, "%.*g", digits, number);
    return buffer;
}

// Times, each once and in order.
inline std::vector<double> different(std::vector<double> times) {
    std::sort(times.begin(), times.end());
    times.erase(std::unique(times.begin(), times.end()), times.end());
    return times;
}

// What frames that came too seldom did to a window, a line each.
//   taken: those of its frames that its clips take, each once.
template <typename Kept>
std::vector<std::string> warnings_of(const Window<Kept>& window, const std::vector<std::int64_t>& taken) {
    std::vector<std::string> lines;
    std::vector<double> times;
    for (const std::int64_t index : taken) {
        times.push_back(window.shown_seconds[static_cast<std::size_t>(index)]);
    }
    const std::size_t came = different(std::move(times)).size();
    if (static_cast<double>(came) < kLeastShare * static_cast<double>(taken.size())) {
        const double rate = static_cast<double>(window.frames.size()) / (window.end_seconds - window.start_seconds);
        lines.push_back(too_few(static_cast<std::int64_t>(came), "the " + std::to_string(taken.size()) +
                                                                     " that are taken of a window at " +
                                                                     text_of(rate, 4) + " a second"));
    }
    const std::vector<double> shown = different(window.shown_seconds);
    std::vector<double> distances;
    for (std::size_t number = 1; number < shown.size(); ++number) {
        distances.push_back(shown[number] - shown[number - 1]);
    }
    std::sort(distances.begin(), distances.end());
    const double longest = distances.empty() ? 0 : distances.back();
    const double usual = distances.empty() ? 0 : distances[distances.size() / 2];
    if (longest >= std::max(kLeastPauseSeconds, kLeastPauseFrames * usual)) {
        lines.push_back("no frame came for " + text_of(longest, 3) +
                        " s of the window: those before and after are repeated");
    }
    return lines;
}

// What made counting begin anew before a window.
struct Breaks {
    double pause_seconds = 0;  // the longest time that no frame came for, where that was longer than a window
    bool is_lost = false;      // whether the connection was lost
    std::string sizes;         // the latest change of the frames' size, such as "64x48 to 48x64"

    // Those that came later too.
    void add(const Breaks& later) {
        pause_seconds = std::max(pause_seconds, later.pause_seconds);
        is_lost = is_lost || later.is_lost;
        sizes = later.sizes.empty() ? sizes : later.sizes;
    }

    // What is told of the first window after them, a line each.
    std::vector<std::string> lines() const {
        std::vector<std::string> lines;
        if (pause_seconds > 0) {
            lines.push_back("no frame came for " + text_of(pause_seconds, 3) +
                            " s before the window, and none spans so long a pause");
        }
        if (is_lost) {
            lines.push_back("the connection was lost before the window, and none spans that");
        }
        if (!sizes.empty()) {
            lines.push_back("frames changed from " + sizes + " before the window, and none spans a change");
        }
        return lines;
    }
};

}  // namespace i3d::core
