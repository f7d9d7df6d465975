// Launch functions of the GPU kernels, without TensorFlow or CUDA types.
//
// Buffers are device memory, `stream` is a CUstream of the current context. The functions return nullptr, or an error
// message that stays valid.
#pragma once

#include "cuda_kernels.h"

namespace frcnn {

struct RoiAlignCall {
  Pyramid pyramid;
  Pooling pooling;
  DType dtype;
  const float* boxes;
  const int32_t* box_image;
  int64_t count;
};

const char* launch_roi_align(const RoiAlignCall& call, const void* const* features, void* pooled, void* stream);

int64_t roi_align_gradient_workspace_bytes(const RoiAlignCall& call, bool deterministic);

// Deterministic: each pixel gathers its sum in the order of the boxes, instead of atomic additions in any order.
const char* launch_roi_align_gradient(const RoiAlignCall& call, const void* upstream, void* const* gradients,
                                      void* workspace, bool deterministic, void* stream);

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

}  // namespace frcnn
