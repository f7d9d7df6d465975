// Bias, residual and ReLU on a CPU: for graphs that were traced for a GPU. Graphs that are traced for a CPU use
// TensorFlow's operations, which it fuses with the convolution.
#include "cpu.h"

namespace frcnn {
namespace {

constexpr int64_t kChunk = 1 << 15;  // elements

template <class T>
void forward(const BiasReluCall& call, const ParallelFor& parallel) {
  const T *inputs = static_cast<const T*>(call.inputs), *residual = static_cast<const T*>(call.residual);
  T* outputs = static_cast<T*>(call.outputs);
  parallel(call.rows, kChunk / (call.channels + 1) + 1, [=](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      for (int64_t channel = 0; channel < call.channels; ++channel) {
        const int64_t i = row * call.channels + channel;
        float sum = to_float(inputs[i]) + call.bias[channel];
        if (residual != nullptr) sum += to_float(residual[i]);
        from_float(activated(sum, call.relu), outputs + i);
      }
    }
  });
}

template <class T>
void backward(const BiasReluGradientCall& call, const ParallelFor& parallel) {
  const T *upstream = static_cast<const T*>(call.upstream), *outputs = static_cast<const T*>(call.outputs);
  T* gradient = static_cast<T*>(call.gradient);
  parallel(call.size, kChunk, [=](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) gradient[i] = passed(upstream[i], outputs[i]);
  });
}

}  // namespace

void bias_relu_forward(const BiasReluCall& call, const ParallelFor& parallel) {
  const auto run = call.dtype == DType::kFloat32    ? forward<float>
                   : call.dtype == DType::kBFloat16 ? forward<BFloat16>
                                                    : forward<Float16>;
  run(call, parallel);
}

void bias_relu_backward(const BiasReluGradientCall& call, const ParallelFor& parallel) {
  const auto run = call.dtype == DType::kFloat32    ? backward<float>
                   : call.dtype == DType::kBFloat16 ? backward<BFloat16>
                                                    : backward<Float16>;
  run(call, parallel);
}

}  // namespace frcnn
