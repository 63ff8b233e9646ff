#include "recognizer.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "errors.hpp"
#include "modules.hpp"

namespace i3d::core {
namespace {

constexpr int kMaxBatch = 1024;

std::string text(const Tensor& tensor) {
    std::string sizes;
    for (const std::int64_t size : tensor.shape) {
        sizes += ", " + (size < 0 ? std::string("any") : std::to_string(size));
    }
    return tensor.dtype + " of shape (N" + sizes + ")";
}

Tensor input_of(const Card& card) {
    const std::int64_t frames = card.has_fixed_length() ? card.sampling.clip_len : -1;
    const std::int64_t side = card.spatial.crop_size;
    switch (card.engine.input) {
        case EngineInput::kUint8NTHWC:
            return {"uint8", {frames, side, side, 3}};
        case EngineInput::kFloatNTHWC:
            return {"float32", {frames, side, side, 3}};
        case EngineInput::kFloatNCTHW:
            break;
    }
    return {"float32", {3, frames, side, side}};
}

// exp(logit) over their sum, in double.
void add_softmax(const double* logits, std::size_t count, std::vector<double>& sums) {
    const double largest = *std::max_element(logits, logits + count);
    double total = 0;
    std::vector<double> exponentials(count);
    for (std::size_t k = 0; k < count; ++k) {
        exponentials[k] = std::exp(logits[k] - largest);
        total += exponentials[k];
    }
    for (std::size_t k = 0; k < count; ++k) {
        sums[k] += exponentials[k] / total;
    }
}

// Views of a video as an engine takes them, batch by batch.
template <typename Value>
class Feed {
public:
    Feed(const Card& card, const Views<Value>& views, std::size_t batch)
        : card_(card), views_(views), is_bytes_(card.engine.input == EngineInput::kUint8NTHWC) {
        const std::size_t values = batch * views.values_per_view();
        if (is_bytes_) {
            bytes_.resize(values);
        } else {
            floats_.resize(values);
        }
        const auto frames = static_cast<std::int64_t>(views.clip_len());
        const std::int64_t side = card.spatial.crop_size;
        shape_ = card.engine.input == EngineInput::kFloatNCTHW ? std::vector<std::int64_t>{0, 3, frames, side, side}
                                                               : std::vector<std::int64_t>{0, frames, side, side, 3};
    }

    // Cut views [first, first + count), the last of them repeated up to a number of views.
    const void* cut(std::size_t first, std::size_t count, std::size_t filled) {
        const std::size_t values = views_.values_per_view();
        for (std::size_t i = 0; i < filled; ++i) {
            const std::size_t number = first + std::min(i, count - 1);
            if (is_bytes_) {
                cut_bytes(number, bytes_.data() + i * values);
            } else if (card_.engine.input == EngineInput::kFloatNTHWC) {
                views_.cut(number, floats_.data() + i * values);
            } else {
                views_.cut_normalized(number, card_, floats_.data() + i * values);
            }
        }
        shape_[0] = static_cast<std::int64_t>(filled);
        return is_bytes_ ? static_cast<const void*>(bytes_.data()) : static_cast<const void*>(floats_.data());
    }

    const std::vector<std::int64_t>& shape() const { return shape_; }

private:
    void cut_bytes(std::size_t number, std::uint8_t* out) {
        if constexpr (std::is_same_v<Value, std::uint8_t>) {
            views_.cut(number, out);
        }  // a card of float pixels has no engine that takes bytes
    }

    const Card& card_;
    const Views<Value>& views_;
    bool is_bytes_;
    std::vector<std::uint8_t> bytes_;
    std::vector<float> floats_;
    std::vector<std::int64_t> shape_;
};

}  // namespace

std::vector<std::uint32_t> Prediction::top(std::size_t count) const {
    std::vector<std::uint32_t> order(probabilities.size());
    std::iota(order.begin(), order.end(), 0U);
    std::stable_sort(order.begin(), order.end(),
                     [this](std::uint32_t a, std::uint32_t b) { return probabilities[a] > probabilities[b]; });
    order.resize(std::min(count, order.size()));
    return order;
}

std::vector<float> average_views(const std::vector<float>& logits, std::size_t num_classes, Averaging over) {
    const std::size_t num_views = logits.size() / num_classes;
    std::vector<double> rows(logits.begin(), logits.end());
    std::vector<double> sums(num_classes, 0.0);
    if (over == Averaging::kLogits) {
        std::vector<double> means(num_classes, 0.0);
        for (std::size_t i = 0; i < rows.size(); ++i) {
            means[i % num_classes] += rows[i];
        }
        for (double& mean : means) {
            mean = static_cast<double>(static_cast<float>(mean / static_cast<double>(num_views)));
        }
        add_softmax(means.data(), num_classes, sums);
        return {sums.begin(), sums.end()};
    }
    for (std::size_t view = 0; view < num_views; ++view) {
        add_softmax(rows.data() + view * num_classes, num_classes, sums);
    }
    std::vector<float> probabilities(num_classes);
    for (std::size_t k = 0; k < num_classes; ++k) {
        probabilities[k] = static_cast<float>(sums[k] / static_cast<double>(num_views));
    }
    return probabilities;
}

Recognizer::Recognizer(const std::string& path, const std::string& device, int threads) : path_(path) {
    if (threads < 0 || threads > 4096) {
        throw Error(I3D_ERROR_INPUT,
                    "threads (" + std::to_string(threads) + ") must be > 0 and <= 4096, or 0 for the backend's choice");
    }
    const Artifact artifact = identify(path);
    engine_.reset(open_engine_of(artifact.backend)({path, artifact.card, artifact.version, device, threads}));
    const std::string card = artifact.card.empty() ? engine_->card() : artifact.card;
    if (card.empty()) {
        throw Error(I3D_ERROR_CARD, path + " carries no card: export it with i3d-export, which writes one");
    }
    card_ = read_card(card, path);
    check_fit();
    engine_->compile(card_.engine);
}

void Recognizer::check_fit() const {
    const auto num_classes = static_cast<std::int64_t>(card_.labels.size());
    const Tensor wanted[] = {input_of(card_), {"float32", {num_classes}}};
    const Tensor found[] = {engine_->input(), engine_->output()};
    for (int i = 0; i < 2; ++i) {
        if (found[i].dtype != wanted[i].dtype || found[i].shape != wanted[i].shape) {
            throw Error(I3D_ERROR_ARTIFACT, path_ + ": the " + (i == 0 ? "input" : "output") + " of the engine is " +
                                                text(found[i]) + ", its card says " + text(wanted[i]));
        }
    }
}

void Recognizer::check_batch(int batch) {
    if (batch < 0 || batch > kMaxBatch) {
        throw Error(I3D_ERROR_INPUT, "batch (" + std::to_string(batch) + ") must be > 0 and <= " +
                                         std::to_string(kMaxBatch) + ", or 0 for what suits the backend");
    }
}

Prediction Recognizer::predict(Source& source, Protocol protocol, int batch) {
    check_batch(batch);
    if (card_.has_float_pixels()) {
        return predict_views(Views<float>(card_, source, protocol), batch);
    }
    return predict_views(Views<std::uint8_t>(card_, source, protocol), batch);
}

template <typename Value>
Prediction Recognizer::predict_views(const Views<Value>& views, int batch) {
    const auto least = static_cast<std::size_t>(card_.engine.profile[0]);
    const auto most = static_cast<std::size_t>(card_.engine.profile[2]);
    const std::size_t num_classes = card_.labels.size();
    const int asked = batch == 0 ? engine_->preferred_batch() : batch;
    const std::size_t size = std::min(std::max(static_cast<std::size_t>(asked), least), most);
    Feed<Value> feed(card_, views, std::min(size, std::max(least, views.size())));
    Prediction prediction;
    prediction.num_views = views.size();
    prediction.num_frames = views.num_frames();
    prediction.warnings = views.warnings();
    prediction.logits.resize(views.size() * num_classes);
    std::vector<float> rows(std::max(size, least) * num_classes);
    for (std::size_t first = 0; first < views.size(); first += size) {
        const std::size_t count = std::min(size, views.size() - first);
        const void* input = feed.cut(first, count, std::max(count, least));
        {
            const std::lock_guard<std::mutex> turn(mutex_);
            engine_->infer(input, feed.shape(), rows.data());
        }
        std::copy_n(rows.begin(), count * num_classes,
                    prediction.logits.begin() + static_cast<std::ptrdiff_t>(first * num_classes));
    }
    const auto is_wrong = [](float logit) { return !std::isfinite(logit); };
    const auto wrong = std::count_if(prediction.logits.begin(), prediction.logits.end(), is_wrong);
    if (wrong > 0) {
        throw Error(I3D_ERROR_ARTIFACT, std::to_string(wrong) +
                                            " logits are not finite: the weights are damaged, or too "
                                            "large for " +
                                            card_.engine.precision + "; export in bf16 or fp32");
    }
    prediction.probabilities = average_views(prediction.logits, num_classes, card_.averaging);
    return prediction;
}

template Prediction Recognizer::predict_views(const Views<std::uint8_t>&, int);
template Prediction Recognizer::predict_views(const Views<float>&, int);

}  // namespace i3d::core
