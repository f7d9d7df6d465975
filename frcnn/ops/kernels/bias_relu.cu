// Bias, residual and ReLU on a GPU, and the gradient of the ReLU: bound by memory traffic, so every thread has several
// accesses of 16 bytes in flight.
#include "cuda_kernels.h"
#include "device.h"

namespace frcnn {

// Grid: any number of threads that is at least channels / kWidth. A thread has kWidth channels, whose bias it reads
// once, in every step-th row.
template <class T, int kWidth>
__device__ __forceinline__ void bias_relu(const BiasReluCall& call) {
  const int64_t packets = call.channels / kWidth;
  const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t step = int64_t(gridDim.x) * blockDim.x / packets;
  if (thread >= step * packets) return;  // not enough threads are left for a row
  const int64_t channel = thread % packets * kWidth;
  float bias[kWidth];
  constexpr int kBiasWidth = kWidth < 4 ? kWidth : 4;
  for (int v = 0; v < kWidth; v += kBiasWidth) {
    const Packet<float, kBiasWidth> part = read<float, kBiasWidth>(call.bias + channel + v);
    for (int w = 0; w < kBiasWidth; ++w) bias[v + w] = part.value[w];
  }

  for (int64_t row = thread / packets; row < call.rows; row += kPacketsInFlight * step) {
    // All packets are read before one is written, because the outputs may be the memory of an input.
    Packet<T, kWidth> inputs[kPacketsInFlight], residual[kPacketsInFlight];
#pragma unroll
    for (int k = 0; k < kPacketsInFlight; ++k) {
      const int64_t offset = (row + k * step) * call.channels + channel;
      if (row + k * step >= call.rows) continue;
      inputs[k] = read<T, kWidth>(static_cast<const T*>(call.inputs) + offset);
      if (call.residual != nullptr) residual[k] = read<T, kWidth>(static_cast<const T*>(call.residual) + offset);
    }
#pragma unroll
    for (int k = 0; k < kPacketsInFlight; ++k) {
      const int64_t offset = (row + k * step) * call.channels + channel;
      if (row + k * step >= call.rows) continue;
      float sums[kWidth];
      for (int v = 0; v < kWidth; ++v) {
        sums[v] = to_float(inputs[k].value[v]) + bias[v];
        if (call.residual != nullptr) sums[v] += to_float(residual[k].value[v]);
        sums[v] = activated(sums[v], call.relu);
      }
      write<T, kWidth>(sums, static_cast<T*>(call.outputs) + offset);
    }
  }
}

// Grid: any.
template <class T, int kWidth>
__device__ __forceinline__ void bias_relu_gradient(const BiasReluGradientCall& call) {
  const int64_t packets = call.size / kWidth, step = int64_t(gridDim.x) * blockDim.x;
  const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  for (int64_t packet = thread; packet < packets; packet += kPacketsInFlight * step) {
    Packet<T, kWidth> upstream[kPacketsInFlight], outputs[kPacketsInFlight];
#pragma unroll
    for (int k = 0; k < kPacketsInFlight; ++k) {
      const int64_t offset = (packet + k * step) * kWidth;
      if (packet + k * step >= packets) continue;
      upstream[k] = read<T, kWidth>(static_cast<const T*>(call.upstream) + offset);
      outputs[k] = read<T, kWidth>(static_cast<const T*>(call.outputs) + offset);
    }
#pragma unroll
    for (int k = 0; k < kPacketsInFlight; ++k) {
      const int64_t offset = (packet + k * step) * kWidth;
      if (packet + k * step >= packets) continue;
      Packet<T, kWidth> gradient;
      for (int v = 0; v < kWidth; ++v) gradient.value[v] = passed(upstream[k].value[v], outputs[k].value[v]);
      write<T, kWidth>(gradient, static_cast<T*>(call.gradient) + offset);
    }
  }
}

}  // namespace frcnn

using namespace frcnn;

// The kernels of one dtype and width, as the host looks them up: frcnn_bias_relu_float32_x4, ...
#define FRCNN_BIAS_RELU_KERNELS(T, kWidth, suffix)                                                          \
  extern "C" __global__ void frcnn_bias_relu_##suffix(FRCNN_PARAMETER BiasReluCall call) {                  \
    bias_relu<T, kWidth>(call);                                                                             \
  }                                                                                                         \
  FRCNN_KERNEL(BiasReluKernel, frcnn_bias_relu_##suffix);                                                   \
  extern "C" __global__ void frcnn_bias_relu_gradient_##suffix(FRCNN_PARAMETER BiasReluGradientCall call) { \
    bias_relu_gradient<T, kWidth>(call);                                                                    \
  }                                                                                                         \
  FRCNN_KERNEL(BiasReluGradientKernel, frcnn_bias_relu_gradient_##suffix);

FRCNN_BIAS_RELU_KERNELS(float, 1, float32_x1)
FRCNN_BIAS_RELU_KERNELS(float, 4, float32_x4)
FRCNN_BIAS_RELU_KERNELS(BFloat16, 1, bfloat16_x1)
FRCNN_BIAS_RELU_KERNELS(BFloat16, 8, bfloat16_x8)
FRCNN_BIAS_RELU_KERNELS(Float16, 1, float16_x1)
FRCNN_BIAS_RELU_KERNELS(Float16, 8, float16_x8)
