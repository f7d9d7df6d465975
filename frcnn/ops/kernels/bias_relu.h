// Bias, residual and ReLU in one pass over NHWC activations, shared by the CPU and GPU kernels.
#pragma once

#include "dtype.h"

namespace frcnn {

// outputs = act(inputs + bias [+ residual]), act is ReLU or the identity; sums are float32, rounded once.
struct BiasReluCall {
  DType dtype;  // of all but the bias
  bool relu;
  int64_t rows, channels;
  const void* inputs;    // [rows, channels]
  const float* bias;     // [channels]
  const void* residual;  // [rows, channels], or nullptr
  void* outputs;         // [rows, channels]; may be the memory of the inputs or the residual
};

// gradient = upstream where outputs > 0, else 0: that of inputs and residual.
struct BiasReluGradientCall {
  DType dtype;
  int64_t size;
  const void *upstream, *outputs;
  void* gradient;  // may be the memory of upstream or outputs
};

// NaN stays NaN, as in TensorFlow.
FRCNN_HD float activated(float sum, bool relu) {
  return relu && sum <= 0.0f ? 0.0f : sum;
}

template <class T>
FRCNN_HD T passed(T upstream, T output) {
  return to_float(output) > 0.0f ? upstream : T{};
}

}  // namespace frcnn
