// Registration of the GPU kernels with TensorFlow.
#include "bias_relu_op.h"
#include "channel_scale_op.h"
#include "cuda_driver.h"
#include "cuda_launch.h"
#include "group_norm_op.h"
#include "tensorflow/core/framework/device_base.h"
#include "update_op.h"
#include "xla/stream_executor/stream.h"

namespace frcnn {
namespace {

using tensorflow::DEVICE_GPU;

void* stream_of(OpKernelContext* context) {
  return context->op_device_context()->stream()->platform_specific_handle().stream;
}

void report(OpKernelContext* context, const char* failure) {
  if (failure != nullptr) context->CtxFailure(tensorflow::errors::Internal("the GPU kernel failed: ", failure));
}

class RoiAlignGpu : public PoolingKernel {
 public:
  using PoolingKernel::PoolingKernel;

  void Compute(OpKernelContext* context) override {
    RoiAlignCall call;
    OpInputList maps;
    const Tensor *boxes, *box_image;
    if (!check(context, &call.pyramid, &maps, &boxes, &box_image)) return;
    fill(&call, *boxes, *box_image);
    Tensor* pooled;
    OP_REQUIRES_OK(context, context->allocate_output(
                                0, {call.count, pooling_.bins, pooling_.bins, call.pyramid.channels}, &pooled));
    const void* features[kMaxLevels];
    for (int level = 0; level < call.pyramid.levels; ++level) features[level] = maps[level].data();
    report(context, launch_roi_align(call, features, pooled->data(), stream_of(context)));
  }

 protected:
  void fill(RoiAlignCall* call, const Tensor& boxes, const Tensor& box_image) const {
    call->pooling = pooling_;
    call->dtype = dtype_of(type_);
    call->boxes = boxes.flat<float>().data();
    call->box_image = box_image.flat<int32_t>().data();
    call->count = boxes.dim_size(0);
  }
};

class RoiAlignGradGpu : public RoiAlignGpu {
 public:
  using RoiAlignGpu::RoiAlignGpu;

  void Compute(OpKernelContext* context) override {
    RoiAlignCall call;
    OpInputList maps;
    const Tensor *boxes, *box_image, *upstream;
    if (!check(context, &call.pyramid, &maps, &boxes, &box_image)) return;
    fill(&call, *boxes, *box_image);
    Tensor* outputs[kMaxLevels];
    if (!check_gradient(context, call.pyramid, maps, call.count, &upstream, outputs)) return;
    void* gradients[kMaxLevels];
    for (int level = 0; level < call.pyramid.levels; ++level) gradients[level] = outputs[level]->data();
    Tensor workspace;
    OP_REQUIRES_OK(context,
                   context->allocate_temp(tensorflow::DT_INT8, {roi_align_gradient_workspace_bytes(call)}, &workspace));
    report(context, launch_roi_align_gradient(call, upstream->data(), gradients, workspace.data(), stream_of(context)));
  }
};

class NmsGpu : public SuppressionKernel {
 public:
  using SuppressionKernel::SuppressionKernel;

  void Compute(OpKernelContext* context) override {
    Tensor *indices, *counts, workspace;
    if (!check(context, &indices, &counts)) return;
    const Tensor &boxes = context->input(0), &scores = context->input(1), &groups = context->input(2);
    NmsCall call = {int(scores.dim_size(0)),
                    int(scores.dim_size(1)),
                    max_outputs_,
                    iou_threshold_,
                    boxes.flat<float>().data(),
                    scores.flat<float>().data(),
                    groups.flat<int32_t>().data(),
                    indices->flat<int32_t>().data(),
                    counts->flat<int32_t>().data()};
    OP_REQUIRES_OK(context, context->allocate_temp(tensorflow::DT_INT8, {nms_workspace_bytes(call)}, &workspace));
    report(context, launch_nms(call, workspace.data(), stream_of(context)));
  }
};

class BiasReluGpu : public BiasReluOp {
 public:
  using BiasReluOp::BiasReluOp;

 protected:
  void run(OpKernelContext* context, const BiasReluCall& call) const override {
    report(context, launch_bias_relu(call, stream_of(context)));
  }
};

class BiasReluGradGpu : public BiasReluGradOp {
 public:
  using BiasReluGradOp::BiasReluGradOp;

 protected:
  void run(OpKernelContext* context, const BiasReluGradientCall& call) const override {
    report(context, launch_bias_relu_gradient(call, stream_of(context)));
  }
};

class GroupNormGpu : public GroupNormKernel {
 public:
  using GroupNormKernel::GroupNormKernel;

  void Compute(OpKernelContext* context) override {
    NormTensors tensors;
    if (!check(context, &tensors)) return;
    const GroupNormCall call = {tensors.shape,          dtype_of(type_),       relu_,
                                tensors.inputs->data(), floats(tensors.gamma), floats(tensors.beta)};
    Tensor workspace;
    OP_REQUIRES_OK(context,
                   context->allocate_temp(tensorflow::DT_INT8, {group_norm_workspace_bytes(call)}, &workspace));
    report(context, launch_group_norm(call, epsilon_, tensors.outputs->data(), floats(tensors.mean),
                                      floats(tensors.rstd), workspace.data(), stream_of(context)));
  }
};

class GroupNormGradGpu : public GroupNormGradKernel {
 public:
  using GroupNormGradKernel::GroupNormGradKernel;

  void Compute(OpKernelContext* context) override {
    NormGradientTensors tensors;
    if (!check(context, &tensors)) return;
    const GroupNormCall call = {tensors.shape,          dtype_of(type_),       relu_,
                                tensors.inputs->data(), floats(tensors.gamma), floats(tensors.beta)};
    Tensor workspace;
    OP_REQUIRES_OK(context,
                   context->allocate_temp(tensorflow::DT_INT8, {group_norm_workspace_bytes(call)}, &workspace));
    report(context,
           launch_group_norm_gradient(call, tensors.upstream->data(), floats(tensors.mean), floats(tensors.rstd),
                                      tensors.gradient->data(), floats(tensors.gamma_gradient),
                                      floats(tensors.beta_gradient), workspace.data(), stream_of(context)));
  }
};

class ChannelScaleGpu : public ChannelScaleOp {
 public:
  using ChannelScaleOp::ChannelScaleOp;

 protected:
  void run(OpKernelContext* context, const ChannelScaleCall& call) const override {
    report(context, launch_channel_scale(call, stream_of(context)));
  }
};

class UpdateGpu : public UpdateOp {
 public:
  using UpdateOp::UpdateOp;

 protected:
  void run(OpKernelContext* context, const UpdateCall& call) const override {
    report(context, launch_update(call, stream_of(context)));
  }
};

class GlobalNormGpu : public GlobalNormOp {
 public:
  using GlobalNormOp::GlobalNormOp;

 protected:
  void run(OpKernelContext* context, const Normed* tensors, int64_t count, float* norm) const override {
    Tensor workspace;
    OP_REQUIRES_OK(context, context->allocate_temp(tensorflow::DT_INT8, {global_norm_workspace_bytes(tensors, count)},
                                                   &workspace));
    report(context, launch_global_norm(tensors, count, norm, workspace.data(), stream_of(context)));
  }
};

// Registered only where there is machine code for a GPU: without it TensorFlow places the operations on the CPU.
void register_gpu_kernels() {
  static const bool once = [] {
    REGISTER_KERNEL_BUILDER(Name("FrcnnRoiAlign").Device(DEVICE_GPU), RoiAlignGpu);
    REGISTER_KERNEL_BUILDER(Name("FrcnnRoiAlignGrad").Device(DEVICE_GPU), RoiAlignGradGpu);
    REGISTER_KERNEL_BUILDER(Name("FrcnnNms").Device(DEVICE_GPU), NmsGpu);
    REGISTER_KERNEL_BUILDER(Name("FrcnnBiasRelu").Device(DEVICE_GPU), BiasReluGpu);
    REGISTER_KERNEL_BUILDER(Name("FrcnnBiasReluGrad").Device(DEVICE_GPU), BiasReluGradGpu);
    REGISTER_KERNEL_BUILDER(Name("FrcnnGroupNorm").Device(DEVICE_GPU), GroupNormGpu);
    REGISTER_KERNEL_BUILDER(Name("FrcnnGroupNormGrad").Device(DEVICE_GPU), GroupNormGradGpu);
    REGISTER_KERNEL_BUILDER(Name("FrcnnChannelScale").Device(DEVICE_GPU), ChannelScaleGpu);
    REGISTER_KERNEL_BUILDER(
        Name("FrcnnUpdate").Device(DEVICE_GPU).HostMemory("weights").HostMemory("first").HostMemory("second"),
        UpdateGpu);
    REGISTER_KERNEL_BUILDER(Name("FrcnnGlobalNorm").Device(DEVICE_GPU), GlobalNormGpu);
    return true;
  }();
  static_cast<void>(once);
}

const bool kAtLoad = has_gpu_code() && (register_gpu_kernels(), true);

}  // namespace
}  // namespace frcnn

// Searches machine code in `folder` as well as beside the library.
extern "C" __attribute__((visibility("default"))) void frcnn_use_gpu_code(const char* folder) {
  frcnn::set_gpu_code_folder(folder);
  if (frcnn::has_gpu_code()) frcnn::register_gpu_kernels();
}
