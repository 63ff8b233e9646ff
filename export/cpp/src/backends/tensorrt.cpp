// TensorRT 10 and 11 and TensorRT-RTX, which have one interface, on one GPU.
#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>

#include "engine.hpp"
#include "errors.hpp"

namespace i3d::core {
namespace {

namespace trt = nvinfer1;

// Keeps what TensorRT says last of what went wrong.
class Messages : public trt::ILogger {
public:
    void log(Severity severity, const char* message) noexcept override {
        if (severity <= Severity::kERROR) {
            try {
                last_ = message;
            } catch (const std::bad_alloc&) {
                last_.clear();
            }
        }
    }
    const std::string& last() const { return last_; }

private:
    std::string last_;
};

void check(cudaError_t code, const std::string& what) {
    if (code != cudaSuccess) {
        const i3d_status status = code == cudaErrorMemoryAllocation ? I3D_ERROR_MEMORY : I3D_ERROR_DEVICE;
        throw Error(status, "CUDA cannot " + what + ": " + cudaGetErrorString(code));
    }
}

template <typename Object>
using Owned = std::unique_ptr<Object, std::function<void(Object*)>>;

Owned<void> device_memory(std::size_t bytes) {
    void* memory = nullptr;
    check(cudaMalloc(&memory, bytes), "allocate " + std::to_string(bytes) + " bytes on the GPU");
    return {memory, [](void* object) { cudaFree(object); }};
}

Owned<void> pinned_memory(std::size_t bytes) {
    void* memory = nullptr;
    check(cudaMallocHost(&memory, bytes), "pin " + std::to_string(bytes) + " bytes");
    return {memory, [](void* object) { cudaFreeHost(object); }};
}

int gpu_of(const std::string& device) {
    if (device == "auto" || device == "cuda") {
        return 0;
    }
    const std::string prefix = "cuda:";
    const std::string number = device.substr(0, prefix.size()) == prefix ? device.substr(prefix.size()) : "";
    if (number.empty() || number.size() > 3 || number.find_first_not_of("0123456789") != std::string::npos) {
        throw Error(I3D_ERROR_DEVICE, "device \"" + device + "\" must be auto, cuda or cuda:N for TensorRT");
    }
    return std::stoi(number);
}

// Makes a GPU the current one of this thread, and afterwards the one before.
class CurrentGpu {
public:
    explicit CurrentGpu(int gpu) {
        check(cudaGetDevice(&before_), "be used");
        check(cudaSetDevice(gpu), "use GPU " + std::to_string(gpu));
    }
    ~CurrentGpu() { cudaSetDevice(before_); }
    CurrentGpu(const CurrentGpu&) = delete;
    CurrentGpu& operator=(const CurrentGpu&) = delete;

private:
    int before_ = 0;
};

std::size_t values_of(const Tensor& tensor) {
    std::size_t values = 1;
    for (const std::int64_t size : tensor.shape) {
        values *= static_cast<std::size_t>(size);
    }
    return values;
}

class TensorRTEngine : public Engine {
public:
    explicit TensorRTEngine(const EngineFile& file) : file_(file), gpu_(gpu_of(file.device)) {
        const CurrentGpu current(gpu_);
        runtime_.reset(trt::createInferRuntime(messages_));
        if (!runtime_) {
            throw failure(I3D_ERROR_DEVICE, "does not start");
        }
        std::ifstream stream(file.path, std::ios::binary);
        const std::vector<char> plan{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
        engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
        if (!engine_) {
            throw failure(I3D_ERROR_ARTIFACT, "cannot load this engine, which " + file_.version +
                                                  " built, on this GPU (rebuild with i3d-export --to tensorrt)");
        }
        for (int index = 0; index < engine_->getNbIOTensors(); ++index) {
            const char* name = engine_->getIOTensorName(index);
            (engine_->getTensorIOMode(name) == trt::TensorIOMode::kINPUT ? inputs_ : outputs_).emplace_back(name);
        }
        if (inputs_.size() != 1 || outputs_.size() != 1) {
            throw Error(I3D_ERROR_ARTIFACT, file.path + ": the engine must have one input and one output");
        }
    }

    ~TensorRTEngine() override {
        int before = 0;
        cudaGetDevice(&before);
        cudaSetDevice(gpu_);
        context_.reset();
        for (Owned<void>* memory : {&device_output_, &device_input_, &host_output_, &host_input_}) {
            memory->reset();
        }
        stream_.reset();
        engine_.reset();
        runtime_.reset();
        cudaSetDevice(before);
    }
    TensorRTEngine(const TensorRTEngine&) = delete;
    TensorRTEngine& operator=(const TensorRTEngine&) = delete;

    std::string card() const override { return file_.card; }
    Tensor input() const override { return tensor_of(inputs_[0]); }
    Tensor output() const override { return tensor_of(outputs_[0]); }

    void compile(const EngineSpec& spec) override {
        const CurrentGpu current(gpu_);
        precision_ = spec.precision;
        for (const Tensor& tensor : {input(), output()}) {
            if (std::any_of(tensor.shape.begin(), tensor.shape.end(), [](std::int64_t size) { return size < 1; })) {
                throw Error(I3D_ERROR_ARTIFACT, file_.path + ": the engine must leave no size open but N");
            }
        }
        context_.reset(engine_->createExecutionContext());
        if (!context_) {
            throw failure(I3D_ERROR_DEVICE, "cannot prepare this engine");
        }
        const char* name = inputs_[0].c_str();
        preferred_batch_ = static_cast<int>(engine_->getProfileShape(name, 0, trt::OptProfileSelector::kOPT).d[0]);
        smallest_ = engine_->getProfileShape(name, 0, trt::OptProfileSelector::kMIN).d[0];
        largest_ = engine_->getProfileShape(name, 0, trt::OptProfileSelector::kMAX).d[0];
        const auto largest = static_cast<std::size_t>(largest_);
        value_bytes_ = input().dtype == "uint8" ? 1 : sizeof(float);
        const std::size_t input_bytes = largest * values_of(input()) * value_bytes_;
        const std::size_t output_bytes = largest * values_of(output()) * sizeof(float);
        host_input_ = pinned_memory(input_bytes);
        host_output_ = pinned_memory(output_bytes);
        device_input_ = device_memory(input_bytes);
        device_output_ = device_memory(output_bytes);
        cudaStream_t stream = nullptr;
        check(cudaStreamCreate(&stream), "make a stream");
        stream_ = Owned<CUstream_st>(stream, [](cudaStream_t object) { cudaStreamDestroy(object); });
        require(context_->setTensorAddress(name, device_input_.get()), "the address of its input");
        require(context_->setTensorAddress(outputs_[0].c_str(), device_output_.get()), "the address of its output");
    }

    void infer(const void* input, const std::vector<std::int64_t>& shape, float* logits) override {
        if (shape[0] < smallest_ || shape[0] > largest_) {
            throw Error(I3D_ERROR_ARTIFACT, file_.path + ": " + std::to_string(shape[0]) +
                                                " views in one run, the engine takes " + std::to_string(smallest_) +
                                                " to " + std::to_string(largest_));
        }
        const CurrentGpu current(gpu_);
        trt::Dims sizes{};
        sizes.nbDims = static_cast<std::int32_t>(shape.size());
        std::size_t bytes = value_bytes_;
        for (std::size_t axis = 0; axis < shape.size(); ++axis) {
            sizes.d[axis] = shape[axis];
            bytes *= static_cast<std::size_t>(shape[axis]);
        }
        const std::size_t result_bytes = static_cast<std::size_t>(shape[0]) * values_of(output()) * sizeof(float);
        const auto* source = static_cast<const char*>(input);
        std::copy_n(source, bytes, static_cast<char*>(host_input_.get()));
        cudaStream_t stream = stream_.get();
        require(context_->setInputShape(inputs_[0].c_str(), sizes), "the shape of its input");
        check(cudaMemcpyAsync(device_input_.get(), host_input_.get(), bytes, cudaMemcpyHostToDevice, stream),
              "copy views");
        require(context_->enqueueV3(stream), "to run");
        check(cudaMemcpyAsync(host_output_.get(), device_output_.get(), result_bytes, cudaMemcpyDeviceToHost, stream),
              "copy logits");
        check(cudaStreamSynchronize(stream), "run the engine");
        std::copy_n(static_cast<const char*>(host_output_.get()), result_bytes, reinterpret_cast<char*>(logits));
    }

    int preferred_batch() const override { return preferred_batch_; }
    std::string backend() const override {
        return std::string(I3D_FLAVOR) + " " + std::to_string(getInferLibVersion());
    }
    std::string device() const override { return "cuda:" + std::to_string(gpu_); }
    std::string precision() const override { return precision_; }

private:
    Error failure(i3d_status status, const std::string& what) const {
        return {status, file_.path + ": " + I3D_FLAVOR + " " + what + ": " + messages_.last()};
    }

    void require(bool accepted, const std::string& what) const {
        if (!accepted) {
            throw failure(I3D_ERROR_DEVICE, "refused " + what);
        }
    }

    Tensor tensor_of(const std::string& name) const {
        Tensor tensor;
        const trt::DataType type = engine_->getTensorDataType(name.c_str());
        tensor.dtype = type == trt::DataType::kUINT8   ? "uint8"
                       : type == trt::DataType::kFLOAT ? "float32"
                                                       : "type " + std::to_string(static_cast<int>(type));
        const trt::Dims shape = engine_->getTensorShape(name.c_str());
        for (int axis = 1; axis < shape.nbDims; ++axis) {
            tensor.shape.push_back(shape.d[axis]);
        }
        return tensor;
    }

    // Each of them uses those before it.
    EngineFile file_;
    int gpu_;
    Messages messages_;
    std::unique_ptr<trt::IRuntime> runtime_;
    std::unique_ptr<trt::ICudaEngine> engine_;
    Owned<CUstream_st> stream_;
    Owned<void> host_input_;
    Owned<void> host_output_;
    Owned<void> device_input_;
    Owned<void> device_output_;
    std::unique_ptr<trt::IExecutionContext> context_;
    std::vector<std::string> inputs_;
    std::vector<std::string> outputs_;
    std::size_t value_bytes_ = 1;
    std::int64_t smallest_ = 1;
    std::int64_t largest_ = 1;
    int preferred_batch_ = 1;
    std::string precision_;
};

}  // namespace
}  // namespace i3d::core

I3D_MODULE i3d::core::Engine* I3D_OPEN_ENGINE(const i3d::core::EngineFile& file) {
    return new i3d::core::TensorRTEngine(file);
}
