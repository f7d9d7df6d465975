// Launch functions of the GPU kernels, without TensorFlow or CUDA types.
//
// Buffers are device memory, `stream` is a CUstream of the current context. The functions return nullptr, or an error
// message that stays valid.
#pragma once

#include <initializer_list>
#include <string>

#include "cuda_kernels.h"

namespace frcnn {

inline std::string dtype_name(DType dtype) {
  return dtype == DType::kFloat32 ? "float32" : dtype == DType::kBFloat16 ? "bfloat16" : "float16";
}

inline std::string kernel_name(const std::string& prefix, DType dtype, int width) {
  return prefix + dtype_name(dtype) + "_x" + std::to_string(width);
}

constexpr int packet_width(DType dtype) {
  return kVectorBytes / (dtype == DType::kFloat32 ? 4 : 2);
}

// Elements per access: those of 16 bytes, or one if the size or an address is not a multiple.
inline int access_width(DType dtype, int64_t size, std::initializer_list<const void*> buffers) {
  uintptr_t addresses = 0;
  for (const void* buffer : buffers) addresses |= reinterpret_cast<uintptr_t>(buffer);
  const int width = packet_width(dtype);
  return size % width == 0 && addresses % kVectorBytes == 0 ? width : 1;
}

struct RoiAlignCall {
  Pyramid pyramid;
  Pooling pooling;
  DType dtype;
  const float* boxes;
  const int32_t* box_image;
  int64_t count;
};

const char* launch_roi_align(const RoiAlignCall& call, const void* const* features, void* pooled, void* stream);

int64_t roi_align_gradient_workspace_bytes(const RoiAlignCall& call);

// Each pixel gathers its sum in the order of the boxes: the result does not depend on the order of blocks or threads.
const char* launch_roi_align_gradient(const RoiAlignCall& call, const void* upstream, void* const* gradients,
                                      void* workspace, void* stream);

int64_t nms_workspace_bytes(const NmsCall& call);
const char* launch_nms(const NmsCall& call, void* workspace, void* stream);

const char* launch_bias_relu(const BiasReluCall& call, void* stream);
const char* launch_bias_relu_gradient(const BiasReluGradientCall& call, void* stream);

struct GroupNormCall {
  GroupNormShape shape;
  DType dtype;  // of inputs, outputs and their gradients
  bool relu;
  const void* inputs;  // [batch, pixels, channels]
  const float *gamma, *beta;
};

int64_t group_norm_workspace_bytes(const GroupNormCall& call);
// Also writes mean and rstd, [batch, groups].
const char* launch_group_norm(const GroupNormCall& call, float epsilon, void* outputs, float* mean, float* rstd,
                              void* workspace, void* stream);
// `gradient` may be the memory of `upstream`.
const char* launch_group_norm_gradient(const GroupNormCall& call, const void* upstream, const float* mean,
                                       const float* rstd, void* gradient, float* gamma_gradient, float* beta_gradient,
                                       void* workspace, void* stream);

const char* launch_channel_scale(const ChannelScaleCall& call, void* stream);

const char* launch_update(const UpdateCall& call, void* stream);

int64_t global_norm_workspace_bytes(const Normed* tensors, int64_t count);
const char* launch_global_norm(const Normed* tensors, int64_t count, float* norm, void* workspace, void* stream);

}  // namespace frcnn
