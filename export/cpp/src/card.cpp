#include "card.hpp"

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <utility>

#include "errors.hpp"
#include "resizing.hpp"
#include "sampling.hpp"

namespace i3d::core {
namespace {

using nlohmann::json;

constexpr std::int64_t kVersion = 1;
constexpr std::int64_t kMaxCount = 65536;
constexpr std::int64_t kMaxViewBytes = std::int64_t{1} << 31;

// An object of the document whose fields are asked for by name; one that nobody asked for is an error, since it may
// change the answer in a way that this library does not know.
class Fields {
public:
    Fields(const json& document, std::string name, const std::string& where) : name_(std::move(name)), where_(where) {
        if (!document.is_object()) {
            throw malformed("", "must be an object");
        }
        document_ = &document;
    }

    Error malformed(const std::string& field, const std::string& what) const {
        const std::string dot = name_.empty() || field.empty() ? "" : ".";
        return Error(I3D_ERROR_CARD, "the card of " + where_ + " is malformed: " + name_ + dot + field + " " + what);
    }

    // A field; nullptr where it is left out, which means the usual.
    const json* find(const char* field) {
        known_.emplace_back(field);
        const auto found = document_->find(field);
        return found == document_->end() ? nullptr : &*found;
    }

    // A field that may be null, which means the same as leaving it out.
    const json* find_optional(const char* field) {
        const json* found = find(field);
        return found == nullptr || found->is_null() ? nullptr : found;
    }

    const json& get(const char* field) {
        const json* found = find(field);
        if (found == nullptr) {
            throw malformed(field, "is missing");
        }
        return *found;
    }

    int count(const char* field, int otherwise, std::int64_t least = 1, std::int64_t most = kMaxCount) {
        const json* found = find(field);
        return found == nullptr ? otherwise : number(*found, field, least, most);
    }

    int number(const json& value, const char* field, std::int64_t least, std::int64_t most) const {
        const bool is_known =
            value.is_number_integer() && !(value.is_number_unsigned() && value > std::uint64_t{kMaxCount});
        if (!is_known || value.get<std::int64_t>() < least || value.get<std::int64_t>() > most) {
            throw malformed(field,
                            "must be a whole number from " + std::to_string(least) + " to " + std::to_string(most));
        }
        return static_cast<int>(value.get<std::int64_t>());
    }

    double real(const json& value, const char* field) const {
        if (!value.is_number() || !std::isfinite(value.get<double>())) {
            throw malformed(field, "must be a number");
        }
        return value.get<double>();
    }

    std::string text(const char* field, const std::string& otherwise) {
        const json* found = find(field);
        if (found != nullptr && !found->is_string()) {
            throw malformed(field, "must be text");
        }
        return found == nullptr ? otherwise : found->get<std::string>();
    }

    template <typename Value>
    Value one_of(const char* field, Value otherwise, std::initializer_list<std::pair<const char*, Value>> allowed) {
        const json* found = find(field);
        if (found == nullptr) {
            return otherwise;
        }
        std::string names;
        for (const auto& [name, value] : allowed) {
            if (found->is_string() && found->get_ref<const std::string&>() == name) {
                return value;
            }
            names += (names.empty() ? "" : ", ") + std::string(name);
        }
        throw malformed(field, "must be one of " + names);
    }

    // Refuse other fields, but for some that change nothing here.
    void check_no_other(std::initializer_list<const char*> harmless = {}) {
        known_.insert(known_.end(), harmless.begin(), harmless.end());
        for (const auto& [field, value] : document_->items()) {
            bool is_known = false;
            for (const std::string& name : known_) {
                is_known = is_known || name == field;
            }
            if (!is_known) {
                throw malformed(field, "is unknown to this library: build a newer one");
            }
        }
    }

private:
    const json* document_ = nullptr;
    std::string name_;
    const std::string& where_;
    std::vector<std::string> known_;
};

Sampling read_sampling(const json& document, const std::string& where) {
    Fields fields(document, "sampling", where);
    Sampling sampling;
    sampling.scheme =
        fields.one_of("scheme", sampling.scheme,
                      {{"uniform", Scheme::kUniform}, {"dense", Scheme::kDense}, {"whole", Scheme::kWhole}});
    sampling.formula = fields.one_of("formula", sampling.formula,
                                     {{"mmaction2-0.x", Formula::kMMAction0},
                                      {"mmaction2-1.x", Formula::kMMAction1},
                                      {"slowfast", Formula::kSlowFast}});
    sampling.clip_len = fields.count("clip_len", sampling.clip_len);
    sampling.frame_interval = fields.count("frame_interval", sampling.frame_interval);
    sampling.num_clips = fields.count("num_clips", sampling.num_clips, 1, kMaxClips);
    sampling.sample_range = fields.count("sample_range", sampling.sample_range);
    sampling.min_clip_len = fields.count("min_clip_len", sampling.min_clip_len, 1, kMaxWholeFrames);
    sampling.repeats_last =
        fields.one_of("out_of_bound", sampling.repeats_last, {{"loop", false}, {"repeat_last", true}});
    if (const json* rate = fields.find_optional("frames_per_second")) {
        sampling.frames_per_second = fields.real(*rate, "frames_per_second");
        if (!(sampling.frames_per_second > 0 && sampling.frames_per_second <= kMaxRate)) {
            throw fields.malformed("frames_per_second", "must be > 0 and <= 1000");
        }
    }
    fields.check_no_other();
    if (sampling.scheme == Scheme::kWhole && sampling.num_clips != 1) {
        throw fields.malformed("num_clips", "must be 1: a whole video is one clip");
    }
    return sampling;
}

Spatial read_spatial(const json& document, const std::string& where) {
    Fields fields(document, "spatial", where);
    Spatial spatial;
    spatial.formula =
        fields.one_of("formula", spatial.formula,
                      {{"mmaction2", SpatialFormula::kMMAction}, {"slowfast", SpatialFormula::kSlowFast}});
    spatial.short_side = fields.count("short_side", spatial.short_side);
    spatial.crop_size = fields.count("crop_size", spatial.crop_size);
    spatial.num_crops = fields.count("num_crops", spatial.num_crops);
    fields.one_of("interpolation", 0, {{"bilinear", 0}});
    fields.check_no_other();
    if (spatial.num_crops != 1 && spatial.num_crops != 3) {
        throw fields.malformed("num_crops", "must be 1 or 3");
    }
    if (spatial.crop_size > spatial.short_side) {
        throw fields.malformed("crop_size", "must be <= short_side");
    }
    if (spatial.num_crops == 3 && spatial.crop_size != spatial.short_side) {
        throw fields.malformed("crop_size", "must be short_side where there are three crops");
    }
    return spatial;
}

std::array<float, kChannels> per_channel(Fields& fields, const char* field, std::array<float, kChannels> otherwise,
                                         bool is_positive) {
    const json* found = fields.find(field);
    if (found == nullptr) {
        return otherwise;
    }
    if (!found->is_array() || found->size() != kChannels) {
        throw fields.malformed(field, "must be three numbers");
    }
    std::array<float, kChannels> values{};
    for (std::size_t i = 0; i < values.size(); ++i) {
        values[i] = static_cast<float>(fields.real((*found)[i], field));
        if (!std::isfinite(values[i]) || (is_positive && !(values[i] > 0))) {
            throw fields.malformed(field, is_positive ? "must be > 0" : "must be numbers of float32");
        }
    }
    return values;
}

void read_pixels(const json& document, const std::string& where, Card& card) {
    Fields fields(document, "pixels", where);
    fields.one_of("color", 0, {{"rgb", 0}});
    card.mean = per_channel(fields, "mean", card.mean, false);
    card.std = per_channel(fields, "std", card.std, true);
    fields.check_no_other();
}

// Refuse views that no engine takes before anything is allocated for them.
void check_sizes(const Card& card, const Fields& fields) {
    const std::int64_t side = card.spatial.crop_size;
    const std::int64_t values = card.sampling.clip_len * side * side * kChannels;
    if (side > kMaxViewBytes / side || values > kMaxViewBytes / static_cast<std::int64_t>(sizeof(float))) {
        throw fields.malformed("sampling", "and spatial make views of more than 2 GiB");
    }
}

EngineSpec read_engine(const json& document, const std::string& where) {
    Fields fields(document, "engine", where);
    EngineSpec engine;
    engine.input = fields.one_of("input", engine.input,
                                 {{"uint8_nthwc", EngineInput::kUint8NTHWC},
                                  {"float32_nthwc", EngineInput::kFloatNTHWC},
                                  {"float32_ncthw", EngineInput::kFloatNCTHW}});
    engine.precision = fields.text("precision", engine.precision);
    if (const json* profile = fields.find("profile")) {
        if (!profile->is_array() || profile->size() != engine.profile.size()) {
            throw fields.malformed("profile", "must be three numbers");
        }
        for (std::size_t i = 0; i < engine.profile.size(); ++i) {
            engine.profile[i] = fields.number((*profile)[i], "profile", 1, kMaxCount);
        }
    }
    if (engine.profile[0] > engine.profile[1] || engine.profile[1] > engine.profile[2]) {
        throw fields.malformed("profile", "must ascend: smallest, best, largest number of views");
    }
    fields.check_no_other({"layout", "rewrites", "work", "calibration"});
    return engine;
}

void read_network(const json& document, const std::string& where, Card& card) {
    Fields fields(document, "network", where);
    card.network = fields.text("name", "");
    const int num_classes = fields.count("num_classes", 400);
    if (card.labels.size() != static_cast<std::size_t>(num_classes)) {
        throw Error(I3D_ERROR_CARD, "the card of " + where + " is malformed: " + std::to_string(card.labels.size()) +
                                        " labels for a network of " + std::to_string(num_classes) + " classes");
    }
}

std::vector<std::string> read_labels(Fields& fields) {
    const json& labels = fields.get("labels");
    if (!labels.is_array()) {
        throw fields.malformed("labels", "must be a list of names");
    }
    std::vector<std::string> names;
    for (const json& label : labels) {
        if (!label.is_string()) {
            throw fields.malformed("labels", "must be a list of names");
        }
        names.push_back(label.get<std::string>());
    }
    return names;
}

void check_version(const json& document, const std::string& where) {
    const auto version = document.is_object() ? document.find("version") : document.end();
    if (version == document.end() || !version->is_number_integer() || *version < 1) {
        throw Error(I3D_ERROR_CARD, "the card of " + where + " has no version number: not a card of i3d-deploy");
    }
    if (*version > kVersion) {
        throw Error(I3D_ERROR_CARD, "the card of " + where + " has version " + version->dump() +
                                        ", this library reads up to " + std::to_string(kVersion) +
                                        ": build a newer one");
    }
}

Card read_document(const json& document, const std::string& where) {
    check_version(document, where);
    Fields fields(document, "", where);
    Card card;
    const std::string modality = fields.text("modality", "rgb");
    if (modality != "rgb") {
        throw Error(I3D_ERROR_CARD, where + " takes optical flow (modality " + modality +
                                        "), and this library shows frames alone: use the Python runtime");
    }
    card.label_set = fields.text("label_set", "custom");
    card.labels = read_labels(fields);
    read_network(fields.get("network"), where, card);
    if (const json* sampling = fields.find("sampling")) {
        card.sampling = read_sampling(*sampling, where);
    }
    if (const json* spatial = fields.find("spatial")) {
        card.spatial = read_spatial(*spatial, where);
    }
    if (const json* pixels = fields.find("pixels")) {
        read_pixels(*pixels, where, card);
    }
    card.averaging = fields.one_of("averaging", card.averaging,
                                   {{"probabilities", Averaging::kProbabilities}, {"logits", Averaging::kLogits}});
    const json* engine = fields.find_optional("engine");
    if (engine == nullptr) {
        throw Error(I3D_ERROR_CARD,
                    "the card of " + where + " does not say how to feed the engine: export it with i3d-export");
    }
    card.engine = read_engine(*engine, where);
    if (card.engine.input == EngineInput::kUint8NTHWC && card.has_float_pixels()) {
        throw fields.malformed("engine.input",
                               "uint8_nthwc does not go with spatial.formula slowfast: pixels are float32");
    }
    fields.check_no_other(
        {"version", "provenance", "flow_method", "flow_implementation", "parity", "agreement", "accuracy", "gate"});
    check_sizes(card, fields);
    return card;
}

// Documents nest a few levels deep; what is deeper would fill the stack when it is written again.
json parsed(const std::string& text) {
    constexpr int kMaxDepth = 64;
    return json::parse(text, [](int depth, json::parse_event_t, const json&) {
        if (depth > kMaxDepth) {
            throw Error(I3D_ERROR_CARD, "a card nested more than " + std::to_string(kMaxDepth) + " levels deep");
        }
        return true;
    });
}

}  // namespace

Card read_card(const std::string& text, const std::string& where) {
    try {
        Card card = read_document(parsed(text), where);
        card.json = text;
        return card;
    } catch (const json::exception& error) {
        const std::string what = error.what();  // begins with the library's own number of it: "[json.exception...] "
        throw Error(I3D_ERROR_CARD,
                    "the card of " + where + " is no JSON document: " + what.substr(what.find(' ') + 1));
    }
}

PlanNote read_plan_note(const std::string& text, const std::string& where) {
    PlanNote note;
    try {
        const json document = parsed(text);
        note.card = document.at("card").dump();
        note.flavor = document.at("flavor").get<std::string>();
        note.sha256 = document.at("sha256").get<std::string>();
        note.version = document.at("version").get<std::string>();
    } catch (const json::exception& error) {
        throw Error(I3D_ERROR_CARD, where + " is malformed: " + error.what());
    }
    if (note.flavor != "tensorrt" && note.flavor != "tensorrt_rtx") {
        throw Error(I3D_ERROR_CARD, where + " is malformed: flavor must be tensorrt or tensorrt_rtx");
    }
    return note;
}

}  // namespace i3d::core
