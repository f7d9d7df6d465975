// Launches bias, residual and ReLU, and the gradient, on a GPU.
#include <algorithm>
#include <initializer_list>

#include "cuda_driver.h"
#include "cuda_launch.h"

namespace frcnn {
namespace {

// Elements per access: 16 bytes, or one if the size or an address is not a multiple.
int width_of(DType dtype, int64_t size, std::initializer_list<const void*> buffers) {
  const int width = kVectorBytes / (dtype == DType::kFloat32 ? 4 : 2);
  uintptr_t addresses = 0;
  for (const void* buffer : buffers) addresses |= reinterpret_cast<uintptr_t>(buffer);
  return size % width == 0 && addresses % kVectorBytes == 0 ? width : 1;
}

std::string kernel_name(const char* prefix, DType dtype, int width) {
  const char* name = dtype == DType::kFloat32 ? "float32" : dtype == DType::kBFloat16 ? "bfloat16" : "float16";
  return std::string(prefix) + name + "_x" + std::to_string(width);
}

// Blocks for this many packets, and at least for one row of them.
Grid grid_of(int64_t packets, int64_t row) {
  const int64_t wanted = (packets + FRCNN_THREADS * kPacketsInFlight - 1) / (FRCNN_THREADS * kPacketsInFlight);
  const int64_t least = (row + FRCNN_THREADS - 1) / FRCNN_THREADS;
  return {std::max(std::min<int64_t>(wanted, FRCNN_MAX_BLOCKS), least)};
}

}  // namespace

const char* launch_bias_relu(const BiasReluCall& call, void* stream) {
  if (call.rows == 0 || call.channels == 0) return nullptr;
  const int width = width_of(call.dtype, call.channels, {call.inputs, call.bias, call.residual, call.outputs});
  const int64_t packets = call.channels / width;
  return Kernel<BiasReluKernel>{kernel_name("frcnn_bias_relu_", call.dtype, width)}.launch(
      grid_of(call.rows * packets, packets), FRCNN_THREADS, 0, stream, call);
}

const char* launch_bias_relu_gradient(const BiasReluGradientCall& call, void* stream) {
  if (call.size == 0) return nullptr;
  const int width = width_of(call.dtype, call.size, {call.upstream, call.outputs, call.gradient});
  return Kernel<BiasReluGradientKernel>{kernel_name("frcnn_bias_relu_gradient_", call.dtype, width)}.launch(
      grid_of(call.size / width, 1), FRCNN_THREADS, 0, stream, call);
}

}  // namespace frcnn
