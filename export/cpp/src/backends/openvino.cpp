// OpenVINO, on the CPU or another of its devices.
#include <algorithm>
#include <filesystem>
#include <map>
#include <openvino/openvino.hpp>
#include <thread>

#include "engine.hpp"
#include "errors.hpp"

namespace i3d::core {
namespace {

constexpr const char* kCardKey = "i3d_card";

ov::Core& core() {
    // Never destroyed: its plug-ins have threads that outlive other statics.
    static ov::Core& instance = *new ov::Core();
    return instance;
}

// The last line of OpenVINO's message: those before it say where in its source it was thrown.
std::string reason(const std::exception& error) {
    std::string text = error.what();
    while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) {
        text.pop_back();
    }
    return text.substr(text.rfind('\n') + 1);
}

Tensor tensor_of(const ov::Output<ov::Node>& port) {
    Tensor tensor;
    const ov::element::Type type = port.get_element_type();
    tensor.dtype = type == ov::element::u8 ? "uint8" : type == ov::element::f32 ? "float32" : type.to_string();
    const ov::PartialShape& shape = port.get_partial_shape();
    for (std::int64_t axis = 1; axis < shape.rank().get_length(); ++axis) {
        tensor.shape.push_back(shape[axis].is_static() ? shape[axis].get_length() : -1);
    }
    return tensor;
}

class OpenVINOEngine : public Engine {
public:
    explicit OpenVINOEngine(const EngineFile& file) : file_(file), device_(device_of(file.device)) {
        const std::string weights = std::filesystem::path(file.path).replace_extension(".bin").string();
        if (!std::filesystem::exists(weights)) {
            throw Error(I3D_ERROR_ARTIFACT, file.path + ": " + weights + " with the weights is not beside it");
        }
        model_ = loaded([&] { return core().read_model(file.path, weights); });
        if (model_->inputs().size() != 1 || model_->outputs().size() != 1 ||
            model_->input().get_partial_shape().rank().is_dynamic() ||
            model_->output().get_partial_shape().rank().is_dynamic()) {
            throw Error(I3D_ERROR_ARTIFACT, file.path + ": the graph must have one input and one output");
        }
    }

    std::string card() const override {
        return loaded(
            [&] { return model_->has_rt_info(kCardKey) ? model_->get_rt_info<std::string>(kCardKey) : std::string(); });
    }

    Tensor input() const override { return tensor_of(model_->input()); }
    Tensor output() const override { return tensor_of(model_->output()); }

    void compile(const EngineSpec& spec) override {
        preferred_batch_ = spec.profile[0];
        // Left alone, OpenVINO computes in bf16 wherever the CPU can, also where fp16 was asked for.
        hint_ = spec.precision == "fp16"                               ? ov::element::f16
                : spec.precision == "bf16" || spec.precision == "int8" ? ov::element::bf16
                                                                       : ov::element::f32;
        const std::string name = hint_ == ov::element::f16 ? "FP16" : "BF16";
        const auto able = core().get_property(device_, ov::device::capabilities);
        if (hint_ != ov::element::f32 && std::find(able.begin(), able.end(), name) == able.end()) {
            hint_ = ov::element::f32;
        }
        const ov::element::Type used =
            request_of(preferred_batch_).get_compiled_model().get_property(ov::hint::inference_precision);
        const std::string name_used = used == ov::element::f16 ? "fp16" : used == ov::element::bf16 ? "bf16" : "fp32";
        precision_ = spec.precision == "int8" ? "int8 with " + name_used : name_used;
    }

    void infer(const void* input, const std::vector<std::int64_t>& shape, float* logits) override {
        ov::InferRequest& request = request_of(shape[0]);
        const ov::Shape sizes(shape.begin(), shape.end());
        // OpenVINO reads it only.
        const ov::Tensor tensor(model_->input().get_element_type(), sizes, const_cast<void*>(input));
        try {
            request.set_input_tensor(tensor);
            request.infer();
        } catch (const std::exception& error) {
            throw Error(I3D_ERROR_ARTIFACT, file_.path + ": OpenVINO cannot run it: " + reason(error));
        }
        const ov::Tensor result = request.get_output_tensor();
        const auto num_classes = static_cast<std::size_t>(output().shape.front());
        if (result.get_shape() != ov::Shape{sizes[0], num_classes}) {
            throw Error(I3D_ERROR_ARTIFACT, file_.path + ": the engine gave logits of another shape than (N, " +
                                                std::to_string(num_classes) + ")");
        }
        std::copy_n(result.data<const float>(), result.get_size(), logits);
    }

    int preferred_batch() const override { return preferred_batch_; }
    std::string backend() const override {
        const std::string version = ov::get_openvino_version().buildNumber;
        return "openvino " + version.substr(0, version.find('-'));
    }
    std::string device() const override {
        std::string name = device_;
        std::transform(name.begin(), name.end(), name.begin(),
                       [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
        return name;
    }
    std::string precision() const override { return precision_; }

private:
    // Run a step of loading and turn OpenVINO's exceptions into ours.
    template <typename Step>
    auto loaded(const Step& step) const -> decltype(step()) {
        try {
            return step();
        } catch (const std::exception& error) {
            throw Error(I3D_ERROR_ARTIFACT, file_.path + ": OpenVINO cannot load it: " + reason(error));
        }
    }

    static std::string device_of(const std::string& asked) {
        std::string device = asked == "auto" ? "CPU" : asked;
        std::transform(device.begin(), device.end(), device.begin(),
                       [](unsigned char letter) { return static_cast<char>(std::toupper(letter)); });
        std::string names;
        for (const std::string& available : core().get_available_devices()) {
            if (available == device) {
                return device;
            }
            names += (names.empty() ? "" : ", ") + available;
        }
        throw Error(I3D_ERROR_DEVICE, "OpenVINO has no device \"" + asked + "\" here, only " + names);
    }

    // Compile for a number of views on first use: static shapes are faster than dynamic ones. The length of whole
    // videos stays open.
    ov::InferRequest& request_of(std::int64_t num_views) {
        const auto found = requests_.find(num_views);
        if (found != requests_.end()) {
            return found->second;
        }
        ov::AnyMap options{ov::hint::inference_precision(hint_),
                           ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY)};
        if (file_.threads > 0) {
            options.emplace(ov::inference_num_threads(file_.threads));
            if (device_ == "CPU" && static_cast<unsigned>(file_.threads) < std::thread::hardware_concurrency()) {
                // Else every process would hold its threads to the same first cores.
                options.emplace(ov::hint::enable_cpu_pinning(false));
            }
        }
        ov::PartialShape shape = model_->input().get_partial_shape();
        shape[0] = num_views;
        return requests_[num_views] = loaded([&] {
                   const std::shared_ptr<ov::Model> model = model_->clone();
                   model->reshape(shape);
                   return core().compile_model(model, device_, options).create_infer_request();
               });
    }

    EngineFile file_;
    std::string device_;
    std::shared_ptr<ov::Model> model_;
    ov::element::Type hint_ = ov::element::f32;
    int preferred_batch_ = 1;
    std::string precision_;
    std::map<std::int64_t, ov::InferRequest> requests_;
};

}  // namespace
}  // namespace i3d::core

I3D_MODULE i3d::core::Engine* I3D_OPEN_ENGINE(const i3d::core::EngineFile& file) {
    return new i3d::core::OpenVINOEngine(file);
}
