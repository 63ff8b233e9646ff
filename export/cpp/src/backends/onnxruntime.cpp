// ONNX Runtime through its C interface, which keeps its binary form from version to version.
#include <onnxruntime_c_api.h>

#include <algorithm>
#include <functional>
#include <memory>

#include "engine.hpp"
#include "errors.hpp"

namespace i3d::core {
namespace {

constexpr const char* kCardKey = "i3d_card";
constexpr std::uint32_t kApiVersion = 16;  // of ONNX Runtime 1.16; later ones give it too
constexpr std::size_t kMaxRank = 8;

const OrtApi& api() {
    const OrtApi* found = OrtGetApiBase()->GetApi(kApiVersion);
    if (found == nullptr) {
        throw Error(I3D_ERROR_BACKEND, std::string("onnxruntime ") + OrtGetApiBase()->GetVersionString() +
                                           " is too old: 1.16 or newer is needed");
    }
    return *found;
}

// Runs what is called when a scope ends: objects of a C interface are released so.
template <typename Object>
using Owned = std::unique_ptr<Object, std::function<void(Object*)>>;

class OnnxRuntimeEngine : public Engine {
public:
    explicit OnnxRuntimeEngine(const EngineFile& file) : file_(file), api_(api()) {
        if (file.device != "auto" && file.device != "cpu") {
            throw Error(I3D_ERROR_DEVICE,
                        "device \"" + file.device + "\" must be auto or cpu for ONNX Runtime in this library");
        }
        OrtEnv* environment = nullptr;
        check(api_.CreateEnv(ORT_LOGGING_LEVEL_FATAL, "i3d", &environment), I3D_ERROR_BACKEND);
        environment_ = Owned<OrtEnv>(environment, [this](OrtEnv* object) { api_.ReleaseEnv(object); });
        check(api_.DisableTelemetryEvents(environment), I3D_ERROR_BACKEND);
        session_ = opened(-1);
        read_ports();
    }

    std::string card() const override {
        OrtModelMetadata* found = nullptr;
        check(api_.SessionGetModelMetadata(session_.get(), &found), I3D_ERROR_ARTIFACT);
        const Owned<OrtModelMetadata> metadata(found,
                                               [this](OrtModelMetadata* object) { api_.ReleaseModelMetadata(object); });
        char* text = nullptr;
        check(api_.ModelMetadataLookupCustomMetadataMap(found, allocator(), kCardKey, &text), I3D_ERROR_ARTIFACT);
        return taken(text);
    }

    Tensor input() const override { return input_; }
    Tensor output() const override { return output_; }

    void compile(const EngineSpec& spec) override {
        preferred_batch_ = spec.profile[0];
        precision_ = spec.precision;
        if (input_.shape.front() >= 0) {
            fixed_views_ = preferred_batch_;
            session_.reset();  // both at once would take the memory of both
            session_ = opened(fixed_views_);
        }
    }

    void infer(const void* input, const std::vector<std::int64_t>& shape, float* logits) override {
        if (fixed_views_ >= 0 && shape[0] != fixed_views_) {
            fixed_views_ = -1;
            session_.reset();
        }
        if (!session_) {
            session_ = opened(fixed_views_);
        }
        std::size_t bytes = input_.dtype == "uint8" ? 1 : sizeof(float);
        for (const std::int64_t size : shape) {
            bytes *= static_cast<std::size_t>(size);
        }
        const auto type =
            input_.dtype == "uint8" ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
        const Owned<OrtValue> frames = value(const_cast<void*>(input), bytes, shape, type);  // it is read only
        const std::vector<std::int64_t> result_shape = {shape[0], output_.shape[0]};
        const auto result_bytes = static_cast<std::size_t>(shape[0] * output_.shape[0]) * sizeof(float);
        const Owned<OrtValue> result = value(logits, result_bytes, result_shape, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
        const char* input_names[] = {input_name_.c_str()};
        const char* output_names[] = {output_name_.c_str()};
        const OrtValue* inputs[] = {frames.get()};
        OrtValue* outputs[] = {result.get()};
        check(api_.Run(session_.get(), nullptr, input_names, inputs, 1, output_names, 1, outputs), I3D_ERROR_ARTIFACT);
    }

    int preferred_batch() const override { return preferred_batch_; }
    std::string backend() const override { return std::string("onnxruntime ") + OrtGetApiBase()->GetVersionString(); }
    std::string device() const override { return "cpu"; }
    // The CPU has no fp16 convolutions: ONNX Runtime casts them, so that the weights alone are rounded.
    std::string precision() const override { return precision_ == "fp16" ? "fp32 with fp16 weights" : precision_; }

private:
    void check(OrtStatus* status, i3d_status kind) const {
        if (status != nullptr) {
            const std::string message = api_.GetErrorMessage(status);
            api_.ReleaseStatus(status);
            throw Error(kind, file_.path + ": ONNX Runtime: " + message.substr(0, message.find('\n')));
        }
    }

    OrtAllocator* allocator() const {
        OrtAllocator* found = nullptr;
        check(api_.GetAllocatorWithDefaultOptions(&found), I3D_ERROR_BACKEND);
        return found;
    }

    // A text of ONNX Runtime's, which is freed; "" for none.
    std::string taken(char* text) const {
        if (text == nullptr) {
            return "";
        }
        const std::string copy = text;
        check(api_.AllocatorFree(allocator(), text), I3D_ERROR_BACKEND);
        return copy;
    }

    // A session for a number of views, which is faster than one for any number (-1).
    Owned<OrtSession> opened(std::int64_t num_views) const {
        OrtSessionOptions* made = nullptr;
        check(api_.CreateSessionOptions(&made), I3D_ERROR_BACKEND);
        const Owned<OrtSessionOptions> options(
            made, [this](OrtSessionOptions* object) { api_.ReleaseSessionOptions(object); });
        check(api_.SetIntraOpNumThreads(made, file_.threads), I3D_ERROR_BACKEND);
        // A memory pattern is a second block for all activations beside the arena that the first run filled.
        check(api_.DisableMemPattern(made), I3D_ERROR_BACKEND);
        if (precision_ == "fp8") {
            // The extended optimisations of ONNX Runtime 1.32 give wrong numbers for 8-bit floats.
            check(api_.SetSessionGraphOptimizationLevel(made, ORT_ENABLE_BASIC), I3D_ERROR_BACKEND);
        }
        if (num_views >= 0) {
            check(api_.AddFreeDimensionOverrideByName(made, "N", num_views), I3D_ERROR_BACKEND);
        }
        OrtSession* session = nullptr;
        check(api_.CreateSession(environment_.get(), file_.path.c_str(), made, &session), I3D_ERROR_ARTIFACT);
        return Owned<OrtSession>(session, [this](OrtSession* object) { api_.ReleaseSession(object); });
    }

    Owned<OrtValue> value(void* data, std::size_t bytes, const std::vector<std::int64_t>& shape,
                          ONNXTensorElementDataType type) const {
        OrtMemoryInfo* made = nullptr;
        check(api_.CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &made), I3D_ERROR_BACKEND);
        const Owned<OrtMemoryInfo> memory(made, [this](OrtMemoryInfo* object) { api_.ReleaseMemoryInfo(object); });
        OrtValue* found = nullptr;
        check(api_.CreateTensorWithDataAsOrtValue(made, data, bytes, shape.data(), shape.size(), type, &found),
              I3D_ERROR_BACKEND);
        return Owned<OrtValue>(found, [this](OrtValue* object) { api_.ReleaseValue(object); });
    }

    void read_ports() {
        std::size_t inputs = 0;
        std::size_t outputs = 0;
        check(api_.SessionGetInputCount(session_.get(), &inputs), I3D_ERROR_ARTIFACT);
        check(api_.SessionGetOutputCount(session_.get(), &outputs), I3D_ERROR_ARTIFACT);
        if (inputs != 1 || outputs != 1) {
            throw Error(I3D_ERROR_ARTIFACT, file_.path + ": the graph must have one input and one output");
        }
        char* name = nullptr;
        check(api_.SessionGetInputName(session_.get(), 0, allocator(), &name), I3D_ERROR_ARTIFACT);
        input_name_ = taken(name);
        check(api_.SessionGetOutputName(session_.get(), 0, allocator(), &name), I3D_ERROR_ARTIFACT);
        output_name_ = taken(name);
        OrtTypeInfo* info = nullptr;
        check(api_.SessionGetInputTypeInfo(session_.get(), 0, &info), I3D_ERROR_ARTIFACT);
        input_ = tensor_of(info);
        check(api_.SessionGetOutputTypeInfo(session_.get(), 0, &info), I3D_ERROR_ARTIFACT);
        output_ = tensor_of(info);
    }

    Tensor tensor_of(OrtTypeInfo* info) const {
        const Owned<OrtTypeInfo> owned(info, [this](OrtTypeInfo* object) { api_.ReleaseTypeInfo(object); });
        const OrtTensorTypeAndShapeInfo* found = nullptr;
        check(api_.CastTypeInfoToTensorInfo(info, &found), I3D_ERROR_ARTIFACT);
        std::size_t rank = 0;
        if (found != nullptr) {
            check(api_.GetDimensionsCount(found, &rank), I3D_ERROR_ARTIFACT);
        }
        if (found == nullptr || rank < 2 || rank > kMaxRank) {
            throw Error(I3D_ERROR_ARTIFACT, file_.path + ": the input and the output of the graph must be tensors");
        }
        ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
        check(api_.GetTensorElementType(found, &type), I3D_ERROR_ARTIFACT);
        std::vector<std::int64_t> shape(rank);
        check(api_.GetDimensions(found, shape.data(), rank), I3D_ERROR_ARTIFACT);
        Tensor tensor;
        tensor.dtype = type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8   ? "uint8"
                       : type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ? "float32"
                                                                     : "type " + std::to_string(type);
        for (std::size_t axis = 1; axis < rank; ++axis) {
            tensor.shape.push_back(std::max<std::int64_t>(shape[axis], -1));
        }
        return tensor;
    }

    EngineFile file_;
    const OrtApi& api_;
    Owned<OrtEnv> environment_;
    Owned<OrtSession> session_;
    std::string input_name_;
    std::string output_name_;
    Tensor input_;
    Tensor output_;
    std::int64_t fixed_views_ = -1;
    int preferred_batch_ = 1;
    std::string precision_;
};

}  // namespace
}  // namespace i3d::core

I3D_MODULE i3d::core::Engine* I3D_OPEN_ENGINE(const i3d::core::EngineFile& file) {
    return new i3d::core::OnnxRuntimeEngine(file);
}
