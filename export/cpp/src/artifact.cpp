#include "artifact.hpp"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "card.hpp"
#include "errors.hpp"
#include "sha256.hpp"

namespace i3d::core {
namespace {

namespace fs = std::filesystem;
constexpr std::uintmax_t kMaxNoteBytes = 64U << 20U;

std::string suffix_of(const fs::path& path) {
    std::string suffix = path.extension().string();
    std::transform(suffix.begin(), suffix.end(), suffix.begin(),
                   [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
    return suffix;
}

std::string read_text(const fs::path& path) {
    std::error_code error;
    const std::uintmax_t size = fs::file_size(path, error);
    std::ifstream stream(path, std::ios::binary);
    if (error || !stream || size > kMaxNoteBytes) {
        throw Error(I3D_ERROR_CARD,
                    path.string() + " is missing or unreadable: it holds the card of the plan beside it");
    }
    std::ostringstream text;
    text << stream.rdbuf();
    return text.str();
}

Artifact identify_plan(const std::string& path) {
    const std::string note_path = path + ".json";
    const PlanNote note = read_plan_note(read_text(note_path), note_path);
    const std::string found = sha256_of_file(path);
    if (found != note.sha256) {
        throw Error(I3D_ERROR_ARTIFACT, path + ": its SHA-256 is " + found.substr(0, 8) + "..., " + note_path +
                                            " describes " + note.sha256.substr(0, 8) +
                                            "...: the plan was altered or replaced; export it again");
    }
    return {note.flavor, note.card, note.version};
}

}  // namespace

Artifact identify(const std::string& path) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (!fs::exists(status)) {
        throw Error(I3D_ERROR_ARTIFACT, path + ": no such file");
    }
    if (!fs::is_regular_file(status)) {
        throw Error(I3D_ERROR_ARTIFACT, path + ": not a regular file");
    }
    if (fs::file_size(path, error) == 0 || error) {
        throw Error(I3D_ERROR_ARTIFACT, path + ": the file is empty");
    }
    const std::string suffix = suffix_of(path);
    if (suffix == ".xml") {
        return {"openvino", "", ""};
    }
    if (suffix == ".onnx") {
        return {"onnxruntime", "", ""};
    }
    if (suffix == ".engine" || suffix == ".plan") {
        return identify_plan(path);
    }
    throw Error(I3D_ERROR_ARTIFACT,
                path + ": unknown kind of file, allowed are .xml, .onnx, .engine, .plan: export it with i3d-export");
}

}  // namespace i3d::core
