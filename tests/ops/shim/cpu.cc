// The CPU kernels behind the interface of cuda_launch.h, so that main.cc can run them. Chunks of work run serially in
// forward, reverse or shuffled order: no result may depend on it.
#include "cpu.h"

#include "cuda_shim.h"
//
#include "cuda_launch.h"

namespace frcnn {
namespace {

void in_chunks(int64_t count, int64_t block, const Body& body) {
  std::vector<int64_t> begins;
  for (int64_t begin = 0; begin < count; begin += block) begins.push_back(begin);
  if (shim::order == "reverse") std::reverse(begins.begin(), begins.end());
  if (shim::order == "shuffled") std::shuffle(begins.begin(), begins.end(), shim::shuffle);
  for (int64_t begin : begins) body(begin, std::min(begin + block, count));
}

Plan plan_of(const RoiAlignCall& call) {
  return make_plan(call.pyramid, call.pooling, call.boxes, call.box_image, call.count, in_chunks);
}

}  // namespace

const char* launch_roi_align(const RoiAlignCall& call, const void* const* features, void* pooled, void*) {
  roi_align_forward(plan_of(call), call.dtype, features, pooled, in_chunks);
  return nullptr;
}

int64_t roi_align_gradient_workspace_bytes(const RoiAlignCall&) {
  return 0;
}

const char* launch_roi_align_gradient(const RoiAlignCall& call, const void* upstream, void* const* gradients, void*,
                                      void*) {
  roi_align_backward(plan_of(call), call.dtype, upstream, gradients, in_chunks);
  return nullptr;
}

int64_t nms_workspace_bytes(const NmsCall&) {
  return 0;
}

const char* launch_nms(const NmsCall& call, void*, void*) {
  for (int64_t b = 0; b < call.batch; ++b) {
    int32_t* indices = call.indices + b * call.max_outputs;
    const int64_t first = b * call.candidates;
    call.counts[b] = nms(call.boxes + 4 * first, call.scores + first, call.groups + first, call.candidates,
                         call.iou_threshold, call.max_outputs, indices, in_chunks);
    std::fill(indices + call.counts[b], indices + call.max_outputs, -1);
  }
  return nullptr;
}

const char* launch_bias_relu(const BiasReluCall& call, void*) {
  bias_relu_forward(call, in_chunks);
  return nullptr;
}

const char* launch_bias_relu_gradient(const BiasReluGradientCall& call, void*) {
  bias_relu_backward(call, in_chunks);
  return nullptr;
}

int64_t group_norm_workspace_bytes(const GroupNormCall&) {
  return 0;
}

const char* launch_group_norm(const GroupNormCall& call, float epsilon, void* outputs, float* mean, float* rstd, void*,
                              void*) {
  group_norm_forward(call.shape, call.dtype, epsilon, call.relu, call.inputs, call.gamma, call.beta, outputs, mean,
                     rstd, in_chunks);
  return nullptr;
}

const char* launch_group_norm_gradient(const GroupNormCall& call, const void* upstream, const float* mean,
                                       const float* rstd, void* gradient, float* gamma_gradient, float* beta_gradient,
                                       void*, void*) {
  group_norm_backward(call.shape, call.dtype, call.relu, upstream, call.inputs, call.gamma, call.beta, mean, rstd,
                      gradient, gamma_gradient, beta_gradient, in_chunks);
  return nullptr;
}

const char* launch_channel_scale(const ChannelScaleCall& call, void*) {
  channel_scale(call, in_chunks);
  return nullptr;
}

const char* launch_update(const UpdateCall& call, void*) {
  update_all(call, in_chunks);
  return nullptr;
}

int64_t global_norm_workspace_bytes(const Normed*, int64_t) {
  return 0;
}

const char* launch_global_norm(const Normed* tensors, int64_t count, float* norm, void*, void*) {
  *norm = global_norm(tensors, count, in_chunks);
  return nullptr;
}

}  // namespace frcnn
