// Video files, with OpenCV: frames are counted by decoding, since containers are often wrong.
#include <algorithm>
#include <filesystem>
#include <opencv2/core.hpp>
#include <opencv2/videoio.hpp>

#include "errors.hpp"
#include "sampling.hpp"
#include "sources.hpp"

namespace i3d::core {
namespace {

// Least share of the promised frames that a damaged file must give.
constexpr double kMinDecodedShare = 0.5;
// Matroska's clock: a rate of this much is the clock's and says nothing about frames.
constexpr double kClockTicksPerSecond = 1000;

class FileSource : public Source {
public:
    explicit FileSource(const std::string& path) {
        std::error_code error;
        if (!std::filesystem::exists(path, error)) {
            throw Error(I3D_ERROR_VIDEO, path + ": no such file");
        }
        if (!std::filesystem::is_regular_file(path, error)) {
            throw Error(I3D_ERROR_VIDEO, path + ": not a regular file");
        }
        if (std::filesystem::file_size(path, error) == 0) {
            throw Error(I3D_ERROR_VIDEO, path + ": the file is empty");
        }
        // An absolute path cannot be taken for one of FFmpeg's protocols.
        path_ = std::filesystem::absolute(path).string();
        open();
    }

    // One forward pass without seeking; a second one only where the container's count proves wrong.
    Reading read(const Choose& choose, const Take& take) override {
        Reading reading;
        const double rate = capture_.get(cv::CAP_PROP_FPS);
        const bool is_clock = rate >= kClockTicksPerSecond;
        reading.frames_per_second = rate >= kMinRate && !is_clock ? rate : 0;
        const auto promised = is_clock ? 0 : static_cast<std::int64_t>(capture_.get(cv::CAP_PROP_FRAME_COUNT));
        if (promised > 0) {
            reading.indices = choose(promised, reading.frames_per_second);
        }
        reading.num_frames = decode(unique(reading.indices), take);
        if (reading.num_frames != promised) {
            check_count(reading.num_frames, promised);
            open();
            reading.indices = choose(reading.num_frames, reading.frames_per_second);
            const std::int64_t recount = decode(unique(reading.indices), take);
            if (recount < reading.num_frames) {
                throw Error(I3D_ERROR_VIDEO, path_ + ": " + std::to_string(reading.num_frames) +
                                                 " frames decoded at first, " + std::to_string(recount) +
                                                 " the second time");
            }
            reading.warnings.push_back((promised > 0 ? "the container says " + std::to_string(promised) + " frames"
                                                     : std::string("the container does not say how many frames")) +
                                       ", " + std::to_string(reading.num_frames) + " decode");
        }
        if (reading.num_frames == 0) {
            throw Error(I3D_ERROR_VIDEO, path_ + ": no frame could be decoded");
        }
        return reading;
    }

private:
    void open() {
        if (!capture_.open(path_, cv::CAP_FFMPEG)) {
            throw Error(I3D_ERROR_VIDEO, path_ + ": no video stream that can be decoded");
        }
        if (static_cast<int>(capture_.get(cv::CAP_PROP_FOURCC)) == cv::VideoWriter::fourcc('a', 'n', 's', 'i')) {
            throw Error(I3D_ERROR_VIDEO,
                        path_ + ": a text file, not a video");  // FFmpeg plays any .txt as terminal art
        }
        const bool has_no_codec = static_cast<int>(capture_.get(cv::CAP_PROP_FOURCC)) == 0;
        const int pixels = static_cast<int>(capture_.get(cv::CAP_PROP_CODEC_PIXEL_FORMAT));
        if (has_no_codec && pixels == cv::VideoWriter::fourcc('B', 'G', 'R', 24)) {
            // Stored from bottom to top, as usual, they make OpenCV 4.14 and 5.0 write outside their memory.
            throw Error(I3D_ERROR_VIDEO, path_ +
                                             ": uncompressed 24-bit frames are not supported: compress them, for "
                                             "example with FFV1");
        }
        capture_.set(cv::CAP_PROP_ORIENTATION_AUTO, 1);
        check_rotation();
    }

    void check_rotation() {
#if CV_VERSION_MAJOR == 4 && CV_VERSION_MINOR < 7
        const int degrees = static_cast<int>(capture_.get(cv::CAP_PROP_ORIENTATION_META));
        if (degrees != 0 && degrees != 180) {
            throw Error(I3D_ERROR_VIDEO, path_ + ": its frames are to be turned, which OpenCV " CV_VERSION
                                                 " may do the wrong way round: build libi3d with OpenCV 4.7 or newer");
        }
#endif
    }

    void check_count(std::int64_t num_frames, std::int64_t promised) const {
        if (num_frames == 0) {
            throw Error(I3D_ERROR_VIDEO, path_ + ": no frame could be decoded");
        }
        if (static_cast<double>(num_frames) < static_cast<double>(promised) * kMinDecodedShare) {
            throw Error(I3D_ERROR_VIDEO, path_ + ": only " + std::to_string(num_frames) + " of " +
                                             std::to_string(promised) +
                                             " frames decode, fewer than 50%: the file is damaged");
        }
    }

    // All frames, of which those wanted are converted and taken; returns how many there are.
    std::int64_t decode(const std::vector<std::int64_t>& wanted, const Take& take) {
        auto next = wanted.begin();
        cv::Mat image;
        std::int64_t count = 0;
        for (; capture_.grab(); ++count) {
            if (next == wanted.end() || *next != count) {
                continue;
            }
            if (!capture_.retrieve(image) || image.empty() || image.type() != CV_8UC3) {
                break;
            }
            const auto row_stride = static_cast<std::int64_t>(image.step[0]);
            take(count, checked({sizeof(i3d_image), I3D_BGR, image.data, image.rows, image.cols, row_stride}));
            ++next;
        }
        return count;
    }

    std::string path_;
    cv::VideoCapture capture_;
};

}  // namespace

bool reads_files() { return true; }

std::unique_ptr<Source> open_file(const std::string& path) { return std::make_unique<FileSource>(path); }

}  // namespace i3d::core
