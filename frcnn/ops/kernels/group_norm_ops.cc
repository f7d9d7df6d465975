// Group norm with an optional ReLU, and its gradient: the operations and their CPU kernels.
#include "cpu.h"
#include "cpu_device.h"
#include "group_norm_op.h"
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

class GroupNormCpu : public GroupNormKernel {
 public:
  using GroupNormKernel::GroupNormKernel;

  void Compute(OpKernelContext* context) override {
    NormTensors tensors;
    if (!check(context, &tensors)) return;
    advise_huge_pages(*tensors.outputs);
    group_norm_forward(tensors.shape, dtype_of(type_), epsilon_, relu_, tensors.inputs->data(), floats(tensors.gamma),
                       floats(tensors.beta), tensors.outputs->data(), floats(tensors.mean), floats(tensors.rstd),
                       device_threads(context));
  }
};

class GroupNormGradCpu : public GroupNormGradKernel {
 public:
  using GroupNormGradKernel::GroupNormGradKernel;

  void Compute(OpKernelContext* context) override {
    NormGradientTensors tensors;
    if (!check(context, &tensors)) return;
    group_norm_backward(tensors.shape, dtype_of(type_), relu_, tensors.upstream->data(), tensors.inputs->data(),
                        floats(tensors.gamma), floats(tensors.beta), floats(tensors.mean), floats(tensors.rstd),
                        tensors.gradient->data(), floats(tensors.gamma_gradient), floats(tensors.beta_gradient),
                        device_threads(context));
  }
};

REGISTER_KERNEL_BUILDER(Name("FrcnnGroupNorm").Device(DEVICE_CPU), GroupNormCpu);
REGISTER_KERNEL_BUILDER(Name("FrcnnGroupNormGrad").Device(DEVICE_CPU), GroupNormGradCpu);

}  // namespace
}  // namespace frcnn
