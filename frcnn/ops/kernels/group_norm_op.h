// Attributes, input checks and outputs that the CPU and GPU kernels of group norm share.
#pragma once

#include "group_norm.h"
#include "ops.h"

namespace frcnn {

inline const float* floats(const Tensor* tensor) {
  return tensor->flat<float>().data();
}
inline float* floats(Tensor* tensor) {
  return tensor->flat<float>().data();
}

struct NormTensors {
  GroupNormShape shape;
  const Tensor *inputs, *gamma, *beta;
  Tensor *outputs, *mean, *rstd;
};

struct NormGradientTensors {
  GroupNormShape shape;
  const Tensor *upstream, *inputs, *gamma, *beta, *mean, *rstd;
  Tensor *gradient, *gamma_gradient, *beta_gradient;
};

class GroupNormKernelBase : public tensorflow::OpKernel {
 public:
  explicit GroupNormKernelBase(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("T", &type_));
    OP_REQUIRES_OK(context, context->GetAttr("groups", &groups_));
    OP_REQUIRES_OK(context, context->GetAttr("relu", &relu_));
  }

 protected:
  // Returns the shape, or fails the operation and returns false.
  bool check_shapes(OpKernelContext* context, const Tensor& inputs, const Tensor& gamma, const Tensor& beta,
                    GroupNormShape* shape) const {
    const int64_t channels = inputs.dims() == 4 ? inputs.dim_size(3) : 0;
    if (inputs.dims() != 4 || gamma.dims() != 1 || beta.dims() != 1 || channels < 1 || channels % groups_ != 0 ||
        inputs.dim_size(1) * inputs.dim_size(2) < 1 || gamma.dim_size(0) != channels || beta.dim_size(0) != channels) {
      context->CtxFailure(InvalidArgument("group_norm: inputs ", inputs.shape().DebugString(), ", gamma ",
                                          gamma.shape().DebugString(), ", beta ", beta.shape().DebugString(),
                                          "; expected [B, H, W, C], [C] and [C], C a multiple of ", groups_,
                                          " groups and at least one pixel"));
      return false;
    }
    *shape = {inputs.dim_size(0), inputs.dim_size(1) * inputs.dim_size(2), channels, groups_};
    return true;
  }

  tensorflow::DataType type_;
  int64_t groups_;
  bool relu_;
};

// FrcnnGroupNorm.
class GroupNormKernel : public GroupNormKernelBase {
 public:
  explicit GroupNormKernel(OpKernelConstruction* context) : GroupNormKernelBase(context) {
    OP_REQUIRES_OK(context, context->GetAttr("epsilon", &epsilon_));
  }

 protected:
  // Returns the inputs and allocates the outputs, or fails the operation and returns false.
  bool check(OpKernelContext* context, NormTensors* tensors) const {
    tensors->inputs = &context->input(0), tensors->gamma = &context->input(1), tensors->beta = &context->input(2);
    if (!check_shapes(context, *tensors->inputs, *tensors->gamma, *tensors->beta, &tensors->shape)) return false;
    const TensorShape statistics({tensors->shape.batch, tensors->shape.groups});
    absl::Status allocated = context->allocate_output(0, tensors->inputs->shape(), &tensors->outputs);
    allocated.Update(context->allocate_output(1, statistics, &tensors->mean));
    allocated.Update(context->allocate_output(2, statistics, &tensors->rstd));
    if (!allocated.ok()) context->CtxFailure(allocated);
    return allocated.ok();
  }

  float epsilon_;
};

// FrcnnGroupNormGrad.
class GroupNormGradKernel : public GroupNormKernelBase {
 public:
  using GroupNormKernelBase::GroupNormKernelBase;

 protected:
  // As GroupNormKernel::check. The gradient may be in the memory of `upstream`.
  bool check(OpKernelContext* context, NormGradientTensors* tensors) const {
    tensors->upstream = &context->input(0), tensors->inputs = &context->input(1), tensors->gamma = &context->input(2);
    tensors->beta = &context->input(3), tensors->mean = &context->input(4), tensors->rstd = &context->input(5);
    if (!check_shapes(context, *tensors->inputs, *tensors->gamma, *tensors->beta, &tensors->shape)) return false;
    const TensorShape &shape = tensors->inputs->shape(), statistics({tensors->shape.batch, tensors->shape.groups});
    if (tensors->upstream->shape() != shape || tensors->mean->shape() != statistics ||
        tensors->rstd->shape() != statistics) {
      context->CtxFailure(InvalidArgument("group_norm's gradient: upstream ", tensors->upstream->shape().DebugString(),
                                          ", statistics ", tensors->mean->shape().DebugString(), " and ",
                                          tensors->rstd->shape().DebugString(), "; expected ", shape.DebugString(),
                                          " and ", statistics.DebugString()));
      return false;
    }
    absl::Status allocated = context->forward_input_or_allocate_output({0}, 0, shape, &tensors->gradient);
    allocated.Update(context->allocate_output(1, tensors->gamma->shape(), &tensors->gamma_gradient));
    allocated.Update(context->allocate_output(2, tensors->gamma->shape(), &tensors->beta_gradient));
    if (!allocated.ok()) context->CtxFailure(allocated);
    return allocated.ok();
  }
};

}  // namespace frcnn
