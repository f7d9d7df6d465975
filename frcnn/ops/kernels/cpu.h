// Interface of the CPU kernels: plain buffers and a thread pool, no TensorFlow types.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "bias_relu.h"
#include "channel_scale.h"
#include "group_norm.h"
#include "nms.h"
#include "resize.h"
#include "roi_align.h"
#include "update.h"

namespace frcnn {

// Runs body(first, last) over chunks of [0, count) of size `block` on a thread pool.
using Body = std::function<void(int64_t first, int64_t last)>;
using ParallelFor = std::function<void(int64_t count, int64_t block, const Body& body)>;

// Sampling positions of every RoI, computed once per call. Kept apart from the loops over channels, whose arithmetic
// the compiler may fuse.
struct Plan {
  Pyramid pyramid;
  int bins;
  std::vector<int32_t> order;  // RoIs sorted by level, image and position, so that neighbors share cached features
  std::vector<RoI> rois;
  std::vector<Tap> taps;
  std::vector<int64_t> begin;  // [RoI][axis: y, x][bin, and one past the last] into taps

  const int64_t* axis(int64_t roi, int axis) const { return &begin[(2 * roi + axis) * (bins + 1)]; }
};

Plan make_plan(const Pyramid& pyramid, const Pooling& pooling, const float* boxes, const int32_t* box_image,
               int64_t count, const ParallelFor& parallel);

// features and gradients: one [B, Hl, Wl, C] per level; pooled and upstream: [N, P, P, C]; all NHWC of one dtype.
void roi_align_forward(const Plan& plan, DType dtype, const void* const* features, void* pooled,
                       const ParallelFor& parallel);
void roi_align_backward(const Plan& plan, DType dtype, const void* upstream, void* const* gradients,
                        const ParallelFor& parallel);

// One image: boxes [N, 4], scores [N], groups [N]; writes indices [max_outputs] and returns the number of kept boxes.
int nms(const float* boxes, const float* scores, const int32_t* groups, int count, float iou_threshold, int max_outputs,
        int32_t* indices, const ParallelFor& parallel);

void bias_relu_forward(const BiasReluCall& call, const ParallelFor& parallel);
void bias_relu_backward(const BiasReluGradientCall& call, const ParallelFor& parallel);

// outputs = act((inputs - mean) * rstd * gamma + beta), act is ReLU or the identity. Also writes mean and rstd, the
// reciprocal standard deviation, [batch, groups]. gamma and beta: [channels].
void group_norm_forward(const GroupNormShape& shape, DType dtype, float epsilon, bool relu, const void* inputs,
                        const float* gamma, const float* beta, void* outputs, float* mean, float* rstd,
                        const ParallelFor& parallel);

// The gradients of inputs, gamma and beta from that of the outputs.
void group_norm_backward(const GroupNormShape& shape, DType dtype, bool relu, const void* upstream, const void* inputs,
                         const float* gamma, const float* beta, const float* mean, const float* rstd, void* gradient,
                         float* gamma_gradient, float* beta_gradient, const ParallelFor& parallel);

// Without threads: the input pipeline resizes several images at a time.
void resize_to_canvas(const ResizeCall& call);

void channel_scale(const ChannelScaleCall& call, const ParallelFor& parallel);

void update_all(const UpdateCall& call, const ParallelFor& parallel);

// The root of the sum of squares of all elements, which does not depend on the number of threads.
float global_norm(const Normed* tensors, int64_t count, const ParallelFor& parallel);

}  // namespace frcnn
