#include "sampling.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "errors.hpp"

namespace i3d::core {
namespace {

using Starts = std::vector<double>;

// How much faster the frames of a video follow each other than those that are counted.
double speed_of(const Sampling& sampling, double frames_per_second) {
    const bool is_known = frames_per_second > 0 && sampling.frames_per_second > 0;
    return is_known ? frames_per_second / sampling.frames_per_second : 1.0;
}

std::int64_t count_at_rate(std::int64_t num_frames, double speed) {
    return std::max<std::int64_t>(1, static_cast<std::int64_t>(static_cast<double>(num_frames) / speed + 0.5));
}

// Frame of the video that a counted one is: of each moment the nearest one.
std::int64_t at_rate(std::int64_t counted, std::int64_t num_frames, double speed) {
    if (speed == 1.0) {
        return counted;
    }
    const double nearest = std::floor(static_cast<double>(counted) * speed + 0.5);
    return std::min(static_cast<std::int64_t>(nearest), num_frames - 1);
}

// numpy.linspace with both ends, in its order of operations: fractions are cut afterwards.
std::vector<double> linspace(double start, double stop, int count) {
    std::vector<double> points(static_cast<std::size_t>(count), start);
    if (count == 1) {
        return points;
    }
    const double delta = stop - start;
    const double step = delta / (count - 1);
    for (std::size_t i = 0; i < points.size(); ++i) {
        const auto number = static_cast<double>(i);
        points[i] = (step != 0 ? number * step : number / (count - 1) * delta) + start;
    }
    points.back() = stop;
    return points;
}

Starts uniform_starts(const Sampling& sampling, std::int64_t num_frames, int num_clips) {
    // The formula of 0.x reserves clip_len * frame_interval frames for a clip, more than it spans.
    const std::int64_t window = static_cast<std::int64_t>(sampling.clip_len) * sampling.frame_interval;
    Starts starts(static_cast<std::size_t>(num_clips), 0.0);
    if (num_frames < window) {
        return starts;
    }
    const double mean_step = static_cast<double>(num_frames - window + 1) / num_clips;
    for (std::size_t i = 0; i < starts.size(); ++i) {
        starts[i] = std::trunc(static_cast<double>(i) * mean_step + mean_step / 2);
    }
    return starts;
}

Starts uniform_starts_1x(const Sampling& sampling, std::int64_t num_frames, int num_clips) {
    Starts starts(static_cast<std::size_t>(num_clips), 0.0);
    if (sampling.clip_len == 1) {
        const double mean_step = static_cast<double>(num_frames) / num_clips;
        for (std::size_t i = 0; i < starts.size(); ++i) {
            starts[i] = std::trunc(static_cast<double>(i) * mean_step + mean_step / 2);
        }
        return starts;
    }
    const std::int64_t span = static_cast<std::int64_t>(sampling.clip_len - 1) * sampling.frame_interval + 1;
    const std::int64_t last_start = std::max<std::int64_t>(num_frames - span, 0);
    if (num_clips == 1) {
        starts[0] = static_cast<double>(last_start / 2);
        return starts;
    }
    const double step = static_cast<double>(last_start) / (num_clips - 1);
    for (std::size_t i = 0; i < starts.size(); ++i) {
        starts[i] = std::nearbyint(static_cast<double>(i) * step);  // halves go to the even number
    }
    return starts;
}

Starts dense_starts(const Sampling& sampling, std::int64_t num_frames, int num_clips) {
    const std::int64_t last = std::max<std::int64_t>(1, 1 + num_frames - sampling.sample_range) - 1;
    Starts starts = linspace(0, static_cast<double>(last), num_clips);
    for (double& start : starts) {
        start = std::fmod(std::trunc(start), static_cast<double>(num_frames));
    }
    return starts;
}

Indices clips_from(const Starts& starts, const Sampling& sampling, std::int64_t num_frames) {
    Indices indices{starts.size(), static_cast<std::size_t>(sampling.clip_len), {}};
    indices.frames.reserve(indices.clips * indices.clip_len);
    for (const double start : starts) {
        std::int64_t last_inside = 0;
        for (int position = 0; position < sampling.clip_len; ++position) {
            const std::int64_t offset = static_cast<std::int64_t>(position) * sampling.frame_interval;
            const std::int64_t index = static_cast<std::int64_t>(start) + offset;
            if (index < num_frames) {
                last_inside = index;
                indices.frames.push_back(index);
            } else {
                indices.frames.push_back(sampling.repeats_last ? last_inside : index % num_frames);
            }
        }
    }
    return indices;
}

Indices whole_indices(const Sampling& sampling, std::int64_t num_frames, int num_clips) {
    if (num_clips != 1) {
        throw Error(I3D_ERROR_INPUT, "clips (" + std::to_string(num_clips) +
                                         ") must be 1: a whole video is one clip; export it with "
                                         "--sampling uniform for more");
    }
    const std::int64_t interval = sampling.frame_interval;
    const std::int64_t count = std::max<std::int64_t>((num_frames + interval - 1) / interval, sampling.min_clip_len);
    if (count > kMaxWholeFrames) {
        throw Error(I3D_ERROR_VIDEO, std::to_string(count) +
                                         " frames are too many for a whole video at once, which "
                                         "may have " +
                                         std::to_string(kMaxWholeFrames) +
                                         ": take clips of it (--sampling uniform), or a part of the video");
    }
    Indices indices{1, static_cast<std::size_t>(count), {}};
    for (std::int64_t position = 0; position < count; ++position) {
        indices.frames.push_back(position * interval % num_frames);
    }
    return indices;
}

// Windows of a duration, frames spread over each from end to end; frames beyond the end are the last one.
Indices slowfast_indices(const Sampling& sampling, std::int64_t num_frames, int num_clips, double speed) {
    const double frames = static_cast<double>(num_frames);
    const double window = std::max(1.0, static_cast<double>(sampling.clip_len) * sampling.frame_interval * speed);
    const double room = std::max(frames - window, 0.0);
    Indices indices{static_cast<std::size_t>(num_clips), static_cast<std::size_t>(sampling.clip_len), {}};
    for (int clip = 0; clip < num_clips; ++clip) {
        const double start = room * clip / num_clips;
        for (const double point : linspace(start, start + window - 1, sampling.clip_len)) {
            // Rounded to float before it is cut, as there: fractions just below a whole number become that number.
            const double rounded = static_cast<double>(static_cast<float>(point));
            indices.frames.push_back(static_cast<std::int64_t>(std::clamp(rounded, 0.0, frames - 1)));
        }
    }
    return indices;
}

}  // namespace

void check_length(std::int64_t num_frames, double frames_per_second) {
    if (num_frames < 1 || num_frames > kMaxFrames) {
        throw Error(I3D_ERROR_VIDEO, "num_frames (" + std::to_string(num_frames) + ") must be > 0 and <= 2^40");
    }
    const bool is_rate = frames_per_second >= kMinRate && frames_per_second <= kMaxRate;
    if (!is_rate && frames_per_second != 0) {
        throw Error(I3D_ERROR_INPUT, "frames_per_second (" + std::to_string(frames_per_second) +
                                         ") must be from 0.1 to 1000, or 0 where it is not known");
    }
}

Indices frame_indices(const Sampling& sampling, std::int64_t num_frames, double frames_per_second, int num_clips) {
    check_length(num_frames, frames_per_second);
    if (num_clips < 0 || num_clips > kMaxClips) {
        throw Error(I3D_ERROR_INPUT, "clips (" + std::to_string(num_clips) +
                                         ") must be > 0 and <= " + std::to_string(kMaxClips) + ", or 0 for the card's");
    }
    const int clips = num_clips == 0 ? sampling.num_clips : num_clips;
    const double speed = speed_of(sampling, frames_per_second);
    if (sampling.scheme == Scheme::kUniform && sampling.formula == Formula::kSlowFast) {
        return slowfast_indices(sampling, num_frames, clips, speed);
    }
    const std::int64_t counted = speed == 1.0 ? num_frames : count_at_rate(num_frames, speed);
    Indices indices;
    if (sampling.scheme == Scheme::kWhole) {
        indices = whole_indices(sampling, counted, clips);
    } else if (sampling.scheme == Scheme::kDense) {
        indices = clips_from(dense_starts(sampling, counted, clips), sampling, counted);
    } else if (sampling.formula == Formula::kMMAction1) {
        indices = clips_from(uniform_starts_1x(sampling, counted, clips), sampling, counted);
    } else {
        indices = clips_from(uniform_starts(sampling, counted, clips), sampling, counted);
    }
    for (std::int64_t& index : indices.frames) {
        index = at_rate(index, num_frames, speed);
    }
    return indices;
}

std::int64_t span(const Sampling& sampling, double frames_per_second) {
    const double speed = speed_of(sampling, frames_per_second);
    const int clip_len = sampling.scheme == Scheme::kWhole ? sampling.min_clip_len : sampling.clip_len;
    const std::int64_t steps = static_cast<std::int64_t>(clip_len - 1) * sampling.frame_interval;
    if (sampling.scheme == Scheme::kUniform && sampling.formula == Formula::kSlowFast) {
        return static_cast<std::int64_t>(static_cast<double>(steps) * speed) + 1;
    }
    const std::int64_t count = steps + 1;
    if (count == 1) {
        return 1;
    }
    // One less than it may be, as the products are rounded.
    const double about = (static_cast<double>(count) - 0.5) * speed;
    std::int64_t least = std::max<std::int64_t>(1, static_cast<std::int64_t>(about) - 1);
    while (count_at_rate(least, speed) < count) {
        ++least;
    }
    return least;
}

std::int64_t window_frames(const Sampling& sampling) {
    if (sampling.scheme == Scheme::kUniform && sampling.formula == Formula::kSlowFast) {
        return static_cast<std::int64_t>(sampling.clip_len) * sampling.frame_interval;
    }
    return static_cast<std::int64_t>(sampling.clip_len - 1) * sampling.frame_interval + 1;
}

}  // namespace i3d::core
