// i3d_predict_cpp VIDEO ARTIFACT: labels of a video, as i3d-predict gives them.
#include <i3d.hpp>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr const char* kUsage =
    "usage: i3d_predict_cpp VIDEO ARTIFACT [--top N] [--clips N] [--crops N] [--batch N] [--threads N] [--device "
    "NAME]\n"
    "                       [--raw WIDTHxHEIGHT [--rate FPS]] [--repeat N]\n"
    "  VIDEO     a video file, where libi3d was built with OpenCV; with --raw, frames of rgb24, \"-\" for standard "
    "input\n"
    "  ARTIFACT  an engine of i3d-export: .xml, .onnx, .engine or .plan\n"
    "  --repeat  predict N times more and write the seconds of each to standard error\n";

struct Arguments {
    std::string video;
    std::string artifact;
    int top = 5;
    int repeat = 0;
    int raw_width = 0;
    int raw_height = 0;
    double rate = 0;
    i3d::Options options;
    i3d::RunOptions run;
};

constexpr long kMost = 65536;
constexpr long kMostClips = 1000;

bool set_whole(const char* text, int& number, long most = kMost) {
    char* end = nullptr;
    const long found = std::strtol(text, &end, 10);
    const bool is_allowed = *text != '\0' && *end == '\0' && found >= 1 && found <= most;
    number = is_allowed ? static_cast<int>(found) : 0;
    return is_allowed;
}

bool set_crops(const char* text, int& number) { return set_whole(text, number, 3) && number != 2; }

bool set_rate(const char* text, double& rate) {
    char* end = nullptr;
    rate = std::strtod(text, &end);
    return *text != '\0' && *end == '\0' && rate > 0;
}

bool set_raw(const char* value, Arguments& arguments) {
    const std::string text = value;
    const std::size_t cross = text.find('x');
    return cross != std::string::npos && set_whole(text.substr(0, cross).c_str(), arguments.raw_width) &&
           set_whole(text.substr(cross + 1).c_str(), arguments.raw_height);
}

bool set_device(const char* text, std::string& device) {
    device = text;
    return !device.empty();
}

struct Option {
    const char* name;
    const char* takes;
    bool (*set)(const char* value, Arguments& arguments);  // whether it can be that
};

constexpr const char* kWhole = "a whole number from 1 to 65536";
constexpr Option kOptions[] = {
    {"--top", kWhole, [](const char* value, Arguments& all) { return set_whole(value, all.top); }},
    {"--repeat", kWhole, [](const char* value, Arguments& all) { return set_whole(value, all.repeat); }},
    {"--clips", "a whole number from 1 to 1000",
     [](const char* value, Arguments& all) { return set_whole(value, all.run.clips, kMostClips); }},
    {"--crops", "1 or 3", [](const char* value, Arguments& all) { return set_crops(value, all.run.crops); }},
    {"--batch", kWhole, [](const char* value, Arguments& all) { return set_whole(value, all.run.batch); }},
    {"--threads", kWhole, [](const char* value, Arguments& all) { return set_whole(value, all.options.threads); }},
    {"--raw", "WIDTHxHEIGHT, such as 340x256", set_raw},
    {"--rate", "a number > 0", [](const char* value, Arguments& all) { return set_rate(value, all.rate); }},
    {"--device", "a name", [](const char* value, Arguments& all) { return set_device(value, all.options.device); }},
};

// Set an option. Throws std::invalid_argument: there is none of that name, or its value is missing or wrong.
void set_option(const std::string& name, const char* value, Arguments& arguments) {
    for (const Option& option : kOptions) {
        if (name != option.name) {
            continue;
        }
        if (value == nullptr) {
            throw std::invalid_argument(name + " has no value: it takes " + option.takes);
        }
        if (!option.set(value, arguments)) {
            throw std::invalid_argument(name + " " + value + ": it takes " + option.takes);
        }
        return;
    }
    throw std::invalid_argument(name + ": no such option");
}

bool is_engine(const std::string& path) {
    const std::string suffix = std::filesystem::path(path).extension().string();
    return suffix == ".xml" || suffix == ".onnx" || suffix == ".engine" || suffix == ".plan";
}

// Throws std::invalid_argument: what is wrong with them.
Arguments parsed(int count, char** words) {
    Arguments arguments;
    std::vector<std::string> positional;
    for (int i = 1; i < count; ++i) {
        const std::string word = words[i];
        if (word == "-" || word.rfind('-', 0) != 0) {
            positional.push_back(word);
        } else {
            ++i;
            set_option(word, i < count ? words[i] : nullptr, arguments);
        }
    }
    if (positional.size() != 2) {
        throw std::invalid_argument(std::to_string(positional.size()) + " names given: VIDEO and ARTIFACT are needed");
    }
    if (is_engine(positional[0]) && !is_engine(positional[1])) {
        throw std::invalid_argument(positional[0] + " is an ARTIFACT, and comes second: i3d_predict_cpp " +
                                    positional[1] + " " + positional[0]);
    }
    if (arguments.raw_width == 0 && arguments.rate > 0) {
        throw std::invalid_argument("--rate goes with --raw");
    }
    if (arguments.raw_width == 0 && positional[0] == "-") {
        throw std::invalid_argument("- takes --raw WIDTHxHEIGHT");
    }
    arguments.video = positional[0];
    arguments.artifact = positional[1];
    return arguments;
}

std::vector<char> read_all(const std::string& path) {
    if (path == "-") {
        return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
    }
    std::error_code error;
    const std::uintmax_t size = std::filesystem::file_size(path, error);
    std::ifstream stream(path, std::ios::binary);
    if (error || !stream) {
        throw i3d::Error(I3D_ERROR_VIDEO, path + ": no such file, or it cannot be read");
    }
    std::vector<char> bytes(size);
    stream.read(bytes.data(), static_cast<std::streamsize>(size));
    bytes.resize(static_cast<std::size_t>(stream.gcount()));
    return bytes;
}

// Frames of rgb24, read as a whole.
class RawVideo {
public:
    explicit RawVideo(const Arguments& arguments) : bytes_(read_all(arguments.video)) {
        const auto width = static_cast<std::size_t>(arguments.raw_width);
        const std::size_t frame_bytes = 3 * width * static_cast<std::size_t>(arguments.raw_height);
        if (bytes_.empty() || bytes_.size() % frame_bytes != 0) {
            throw i3d::Error(I3D_ERROR_VIDEO, arguments.video + ": " + std::to_string(bytes_.size()) +
                                                  " bytes are no whole number of frames of " +
                                                  std::to_string(frame_bytes));
        }
        frames_ = i3d::frames(reinterpret_cast<const std::uint8_t*>(bytes_.data()),
                              static_cast<std::int64_t>(bytes_.size() / frame_bytes), arguments.raw_height,
                              arguments.raw_width, I3D_RGB, arguments.rate);
    }

    const i3d_frames& frames() const { return frames_; }

private:
    std::vector<char> bytes_;
    i3d_frames frames_;
};

// Predict what the arguments name, as often as they say.
i3d::Prediction predict(const i3d::Recognizer& recognizer, const Arguments& arguments) {
    std::optional<RawVideo> raw;
    if (arguments.raw_width > 0) {
        raw.emplace(arguments);
    }
    const auto once = [&] {
        return raw ? recognizer.predict(raw->frames(), arguments.run)
                   : recognizer.predict_file(arguments.video, arguments.run);
    };
    for (int number = 0; number < arguments.repeat; ++number) {
        const auto start = std::chrono::steady_clock::now();
        once();
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
        std::fprintf(stderr, "%.6f s\n", seconds.count());
    }
    return once();
}

void print(const i3d::Prediction& prediction, const Arguments& arguments) {
    for (const std::string& line : prediction.warnings()) {
        std::fprintf(stderr, "warning: %s\n", line.c_str());
    }
    for (const auto& [label, probability] : prediction.top(static_cast<std::uint32_t>(arguments.top))) {
        std::printf("%.6f  %s\n", static_cast<double>(probability), label.c_str());
    }
}

}  // namespace

int main(int count, char** words) {
    if (count == 2 && std::strcmp(words[1], "--help") == 0) {
        std::fputs(kUsage, stdout);
        return 0;
    }
    try {
        const Arguments arguments = parsed(count, words);
        const i3d::Recognizer recognizer(arguments.artifact, arguments.options);
        print(predict(recognizer, arguments), arguments);
        return 0;
    } catch (const std::invalid_argument& error) {
        std::fprintf(stderr, "%serror: %s\n", kUsage, error.what());
        return 2;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return 1;
    }
}
