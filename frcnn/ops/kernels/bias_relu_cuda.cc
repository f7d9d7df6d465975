// Launches bias, residual and ReLU, and the gradient, on a GPU.
#include <algorithm>

#include "cuda_driver.h"
#include "cuda_launch.h"

namespace frcnn {
namespace {

// Blocks for this many packets, and at least for one row of them.
Grid grid_of(int64_t packets, int64_t row) {
  const int64_t wanted = blocks(packets, FRCNN_THREADS * kPacketsInFlight);
  return {std::max(std::min<int64_t>(wanted, FRCNN_MAX_BLOCKS), blocks(row, FRCNN_THREADS))};
}

}  // namespace

const char* launch_bias_relu(const BiasReluCall& call, void* stream) {
  if (call.rows == 0 || call.channels == 0) return nullptr;
  const int width = access_width(call.dtype, call.channels, {call.inputs, call.bias, call.residual, call.outputs});
  const int64_t packets = call.channels / width;
  return Kernel<BiasReluKernel>{kernel_name("frcnn_bias_relu_", call.dtype, width)}.launch(
      grid_of(call.rows * packets, packets), FRCNN_THREADS, 0, stream, call);
}

const char* launch_bias_relu_gradient(const BiasReluGradientCall& call, void* stream) {
  if (call.size == 0) return nullptr;
  const int width = access_width(call.dtype, call.size, {call.upstream, call.outputs, call.gradient});
  return Kernel<BiasReluGradientKernel>{kernel_name("frcnn_bias_relu_gradient_", call.dtype, width)}.launch(
      grid_of(call.size / width, 1), FRCNN_THREADS, 0, stream, call);
}

}  // namespace frcnn
