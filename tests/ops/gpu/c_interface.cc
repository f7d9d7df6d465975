// The launch functions behind C names, for ctypes. Inputs are laid out as for tests/ops/shim/main.cc.
#include <vector>

#include "cuda_launch.h"

using namespace frcnn;

namespace {

// head: levels, batch, channels, bins, sampling ratio, aligned, dtype, boxes
RoiAlignCall make_call(const int32_t* head, const int32_t* heights, const int32_t* widths, const float* scales,
                       const float* starts, const float* boxes, const int32_t* box_image) {
  RoiAlignCall call = {};
  call.pyramid.levels = head[0], call.pyramid.batch = head[1], call.pyramid.channels = head[2];
  call.pooling = {head[3], head[4], head[5] != 0};
  call.dtype = DType(head[6]);
  call.count = head[7];
  for (int level = 0; level < head[0]; ++level) {
    call.pyramid.height[level] = heights[level], call.pyramid.width[level] = widths[level];
    call.pyramid.scale[level] = scales[level], call.pyramid.start[level] = starts[level];
  }
  call.boxes = boxes, call.box_image = box_image;
  return call;
}

// head: batch, candidates, outputs
NmsCall make_nms_call(const int32_t* head, float threshold, const float* boxes, const float* scores,
                      const int32_t* groups, int32_t* indices, int32_t* counts) {
  return {head[0], head[1], head[2], threshold, boxes, scores, groups, indices, counts};
}

// head: batch, pixels, channels, groups, dtype, ReLU
GroupNormCall make_norm_call(const int32_t* head, const void* inputs, const float* gamma, const float* beta) {
  return {{head[0], head[1], head[2], head[3]}, DType(head[4]), head[5] != 0, inputs, gamma, beta};
}

}  // namespace

#define FRCNN_EXPORT extern "C" __attribute__((visibility("default")))
#define FRCNN_GEOMETRY                                                                                          \
  const int32_t *head, const int32_t *heights, const int32_t *widths, const float *scales, const float *starts, \
      const float *boxes, const int32_t *images

FRCNN_EXPORT const char* frcnn_test_roi_align(FRCNN_GEOMETRY, const void* const* features, void* pooled, void* stream) {
  return launch_roi_align(make_call(head, heights, widths, scales, starts, boxes, images), features, pooled, stream);
}

FRCNN_EXPORT int64_t frcnn_test_gradient_workspace(FRCNN_GEOMETRY) {
  return roi_align_gradient_workspace_bytes(make_call(head, heights, widths, scales, starts, boxes, images));
}

FRCNN_EXPORT const char* frcnn_test_gradient(FRCNN_GEOMETRY, const void* upstream, void* const* gradients,
                                             void* workspace, void* stream) {
  return launch_roi_align_gradient(make_call(head, heights, widths, scales, starts, boxes, images), upstream, gradients,
                                   workspace, stream);
}

FRCNN_EXPORT int64_t frcnn_test_nms_workspace(const int32_t* head) {
  return nms_workspace_bytes(make_nms_call(head, 0, nullptr, nullptr, nullptr, nullptr, nullptr));
}

FRCNN_EXPORT const char* frcnn_test_nms(const int32_t* head, float threshold, const float* boxes, const float* scores,
                                        const int32_t* groups, int32_t* indices, int32_t* counts, void* workspace,
                                        void* stream) {
  return launch_nms(make_nms_call(head, threshold, boxes, scores, groups, indices, counts), workspace, stream);
}

// head: dtype, rows, channels, relu
FRCNN_EXPORT const char* frcnn_test_bias_relu(const int32_t* head, const void* inputs, const float* bias,
                                              const void* residual, void* outputs, void* stream) {
  return launch_bias_relu({DType(head[0]), head[3] != 0, head[1], head[2], inputs, bias, residual, outputs}, stream);
}

FRCNN_EXPORT const char* frcnn_test_bias_relu_gradient(const int32_t* head, const void* upstream, const void* outputs,
                                                       void* gradient, void* stream) {
  return launch_bias_relu_gradient({DType(head[0]), int64_t(head[1]) * head[2], upstream, outputs, gradient}, stream);
}

FRCNN_EXPORT int64_t frcnn_test_group_norm_workspace(const int32_t* head) {
  return group_norm_workspace_bytes(make_norm_call(head, nullptr, nullptr, nullptr));
}

FRCNN_EXPORT const char* frcnn_test_group_norm(const int32_t* head, float epsilon, const void* inputs,
                                               const float* gamma, const float* beta, void* outputs, float* mean,
                                               float* rstd, void* workspace, void* stream) {
  return launch_group_norm(make_norm_call(head, inputs, gamma, beta), epsilon, outputs, mean, rstd, workspace, stream);
}

FRCNN_EXPORT const char* frcnn_test_group_norm_gradient(const int32_t* head, const void* upstream, const void* inputs,
                                                        const float* gamma, const float* beta, const float* mean,
                                                        const float* rstd, void* gradient, float* gamma_gradient,
                                                        float* beta_gradient, void* workspace, void* stream) {
  return launch_group_norm_gradient(make_norm_call(head, inputs, gamma, beta), upstream, mean, rstd, gradient,
                                    gamma_gradient, beta_gradient, workspace, stream);
}

// head: rule, variables; constants: momentum, betas; addresses: weight, gradient and two states of each variable, which
// are replaced
FRCNN_EXPORT const char* frcnn_test_update(const int32_t* head, const float* constants, const void* scalars,
                                           const int32_t* sizes, const float* rate_factors, const float* decays,
                                           float* const* addresses, void* stream) {
  std::vector<Updated> variables;
  for (int32_t i = 0; i < head[1]; ++i) {
    float* const* of = addresses + 4 * i;
    variables.push_back({sizes[i], of[1], {of[0], of[0]}, {of[2], of[2]}, {of[3], of[3]}, rate_factors[i], decays[i]});
  }
  return launch_update({UpdateRule(head[0]),
                        {constants[0], constants[1], constants[2]},
                        static_cast<const UpdateScalars*>(scalars),
                        variables.data(),
                        head[1]},
                       stream);
}

namespace {

std::vector<Normed> make_normed(int32_t count, const int32_t* sizes, const float* const* addresses) {
  std::vector<Normed> tensors;
  for (int32_t i = 0; i < count; ++i) tensors.push_back({sizes[i], addresses[i]});
  return tensors;
}

}  // namespace

FRCNN_EXPORT int64_t frcnn_test_global_norm_workspace(int32_t count, const int32_t* sizes,
                                                      const float* const* addresses) {
  return global_norm_workspace_bytes(make_normed(count, sizes, addresses).data(), count);
}

FRCNN_EXPORT const char* frcnn_test_global_norm(int32_t count, const int32_t* sizes, const float* const* addresses,
                                                void* norm, void* workspace, void* stream) {
  return launch_global_norm(make_normed(count, sizes, addresses).data(), count, static_cast<float*>(norm), workspace,
                            stream);
}

// head: type of inputs, type of outputs, tensors; addresses: inputs, scale and outputs of each tensor
FRCNN_EXPORT const char* frcnn_test_channel_scale(const int32_t* head, const int32_t* sizes, const int32_t* channels,
                                                  void* const* addresses, void* stream) {
  std::vector<ChannelScaled> tensors;
  for (int32_t i = 0; i < head[2]; ++i) {
    void* const* of = addresses + 3 * i;
    tensors.push_back({sizes[i], channels[i], of[0], static_cast<const float*>(of[1]), of[2]});
  }
  return launch_channel_scale({DType(head[0]), DType(head[1]), tensors.data(), head[2]}, stream);
}
