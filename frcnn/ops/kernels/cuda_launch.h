// Launch functions of the GPU kernels, without TensorFlow or CUDA types, so that they link across compilers.
//
// Buffers are device memory, `stream` is a CUstream. The functions return nullptr, or CUDA's error message.
#pragma once

#include "roi_align.h"

namespace frcnn {

struct PoolingCall {
  Pyramid pyramid;
  Pooling pooling;
  DType dtype;
  const float* boxes;
  const int32_t* box_image;
  int64_t count;
};

const char* launch_roi_align(const PoolingCall& call, const void* const* features, void* pooled, void* stream);

// Number of float32 elements of `sums` that the gradient needs: 0 if it is deterministic or float32.
int64_t roi_align_gradient_sums(const PoolingCall& call, bool deterministic);

// Deterministic: each pixel gathers its sum in the order of the boxes, instead of atomic additions in any order.
const char* launch_roi_align_gradient(const PoolingCall& call, const void* upstream, void* const* gradients,
                                      float* sums, bool deterministic, void* stream);

struct NmsCall {
  int batch, candidates, max_outputs;
  float iou_threshold;
  const float *boxes, *scores;  // [B, N, 4], [B, N]
  const int32_t* groups;        // [B, N]
  int32_t *indices, *counts;    // [B, max_outputs], [B]
};

int64_t nms_workspace_bytes(const NmsCall& call);
const char* launch_nms(const NmsCall& call, void* workspace, void* stream);

}  // namespace frcnn
