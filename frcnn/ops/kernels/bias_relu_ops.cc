// Bias, residual and ReLU, and the gradient of the ReLU, registered with TensorFlow for the CPU.
#include "bias_relu_op.h"
#include "cpu.h"
#include "cpu_device.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace frcnn {
namespace {

using tensorflow::DEVICE_CPU;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

absl::Status SumShape(InferenceContext* c) {
  ShapeHandle shape = c->input(0), bias;
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(shape, 2, &shape));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 1, &bias));
  tensorflow::shape_inference::DimensionHandle channels;
  TF_RETURN_IF_ERROR(c->Merge(c->Dim(shape, -1), c->Dim(bias, 0), &channels));
  for (int n = 2; n < c->num_inputs(); ++n) TF_RETURN_IF_ERROR(c->Merge(shape, c->input(n), &shape));
  c->set_output(0, shape);
  return absl::OkStatus();
}

absl::Status GradientShape(InferenceContext* c) {
  ShapeHandle shape;
  TF_RETURN_IF_ERROR(c->Merge(c->input(0), c->input(1), &shape));
  c->set_output(0, shape);
  return absl::OkStatus();
}

REGISTER_OP("FrcnnBiasRelu")
    .Input("inputs: T")
    .Input("bias: float")
    .Input("residual: N * T")
    .Output("outputs: T")
    .Attr("T: {float, bfloat16, half}")
    .Attr("N: int >= 0")  // 0 or 1
    .Attr("relu: bool")
    .SetShapeFn(SumShape);

REGISTER_OP("FrcnnBiasReluGrad")
    .Input("upstream: T")
    .Input("outputs: T")
    .Output("gradient: T")
    .Attr("T: {float, bfloat16, half}")
    .SetShapeFn(GradientShape);

class BiasReluCpu : public BiasReluOp {
 public:
  using BiasReluOp::BiasReluOp;

 protected:
  void run(OpKernelContext* context, const BiasReluCall& call) const override {
    bias_relu_forward(call, device_threads(context));
  }
};

class BiasReluGradCpu : public BiasReluGradOp {
 public:
  using BiasReluGradOp::BiasReluGradOp;

 protected:
  void run(OpKernelContext* context, const BiasReluGradientCall& call) const override {
    bias_relu_backward(call, device_threads(context));
  }
};

REGISTER_KERNEL_BUILDER(Name("FrcnnBiasRelu").Device(DEVICE_CPU), BiasReluCpu);
REGISTER_KERNEL_BUILDER(Name("FrcnnBiasReluGrad").Device(DEVICE_CPU), BiasReluGradCpu);

}  // namespace
}  // namespace frcnn
