// Group norm with an optional ReLU, and its gradient, registered with TensorFlow for the CPU.
#include "cpu_device.h"
#include "group_norm.h"
#include "ops.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace frcnn {
namespace {

using tensorflow::DEVICE_CPU;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

absl::Status NormShapes(InferenceContext* c) {
  int groups;
  TF_RETURN_IF_ERROR(c->GetAttr("groups", &groups));
  ShapeHandle inputs;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 4, &inputs));
  c->set_output(0, inputs);
  for (int n = 1; n < 3; ++n) c->set_output(n, c->MakeShape({c->Dim(inputs, 0), groups}));
  return absl::OkStatus();
}

absl::Status NormGradientShapes(InferenceContext* c) {
  c->set_output(0, c->input(1));
  for (int n = 1; n < 3; ++n) c->set_output(n, c->input(2));
  return absl::OkStatus();
}

REGISTER_OP("FrcnnGroupNorm")
    .Input("inputs: T")
    .Input("gamma: float")
    .Input("beta: float")
    .Output("outputs: T")
    .Output("mean: float")
    .Output("rstd: float")
    .Attr("T: {float, bfloat16, half}")
    .Attr("groups: int >= 1")
    .Attr("epsilon: float")
    .Attr("relu: bool")
    .SetShapeFn(NormShapes);

REGISTER_OP("FrcnnGroupNormGrad")
    .Input("upstream: T")
    .Input("inputs: T")
    .Input("gamma: float")
    .Input("beta: float")
    .Input("mean: float")
    .Input("rstd: float")
    .Output("gradient: T")
    .Output("gamma_gradient: float")
    .Output("beta_gradient: float")
    .Attr("T: {float, bfloat16, half}")
    .Attr("groups: int >= 1")
    .Attr("relu: bool")
    .SetShapeFn(NormGradientShapes);

class NormKernel : public tensorflow::OpKernel {
 public:
  explicit NormKernel(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("T", &type_));
    OP_REQUIRES_OK(context, context->GetAttr("groups", &groups_));
    OP_REQUIRES_OK(context, context->GetAttr("relu", &relu_));
  }

 protected:
  // Returns the shape, or fails the operation and returns false.
  bool check(OpKernelContext* context, const Tensor& inputs, const Tensor& gamma, const Tensor& beta,
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

class GroupNormCpu : public NormKernel {
 public:
  explicit GroupNormCpu(OpKernelConstruction* context) : NormKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("epsilon", &epsilon_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &inputs = context->input(0), &gamma = context->input(1), &beta = context->input(2);
    GroupNormShape shape;
    if (!check(context, inputs, gamma, beta, &shape)) return;
    Tensor *outputs, *mean, *rstd;
    OP_REQUIRES_OK(context, context->allocate_output(0, inputs.shape(), &outputs));
    advise_huge_pages(*outputs);
    OP_REQUIRES_OK(context, context->allocate_output(1, {shape.batch, shape.groups}, &mean));
    OP_REQUIRES_OK(context, context->allocate_output(2, {shape.batch, shape.groups}, &rstd));
    group_norm_forward(shape, dtype_of(type_), epsilon_, relu_, inputs.data(), gamma.flat<float>().data(),
                       beta.flat<float>().data(), outputs->data(), mean->flat<float>().data(),
                       rstd->flat<float>().data(), device_threads(context));
  }

 private:
  float epsilon_;
};

class GroupNormGradCpu : public NormKernel {
 public:
  using NormKernel::NormKernel;

  void Compute(OpKernelContext* context) override {
    const Tensor &upstream = context->input(0), &inputs = context->input(1), &gamma = context->input(2),
                 &beta = context->input(3), &mean = context->input(4), &rstd = context->input(5);
    GroupNormShape shape;
    if (!check(context, inputs, gamma, beta, &shape)) return;
    const TensorShape statistics({shape.batch, shape.groups});
    OP_REQUIRES(context, upstream.shape() == inputs.shape() && mean.shape() == statistics && rstd.shape() == statistics,
                InvalidArgument("group_norm's gradient: upstream ", upstream.shape().DebugString(), ", statistics ",
                                mean.shape().DebugString(), " and ", rstd.shape().DebugString(), "; expected ",
                                inputs.shape().DebugString(), " and ", statistics.DebugString()));
    Tensor *gradient, *gamma_gradient, *beta_gradient;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0}, 0, inputs.shape(), &gradient));
    OP_REQUIRES_OK(context, context->allocate_output(1, gamma.shape(), &gamma_gradient));
    OP_REQUIRES_OK(context, context->allocate_output(2, gamma.shape(), &beta_gradient));
    group_norm_backward(shape, dtype_of(type_), relu_, upstream.data(), inputs.data(), gamma.flat<float>().data(),
                        beta.flat<float>().data(), mean.flat<float>().data(), rstd.flat<float>().data(),
                        gradient->data(), gamma_gradient->flat<float>().data(), beta_gradient->flat<float>().data(),
                        device_threads(context));
  }
};

REGISTER_KERNEL_BUILDER(Name("FrcnnGroupNorm").Device(DEVICE_CPU), GroupNormCpu);
REGISTER_KERNEL_BUILDER(Name("FrcnnGroupNormGrad").Device(DEVICE_CPU), GroupNormGradCpu);

}  // namespace
}  // namespace frcnn
