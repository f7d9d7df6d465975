// Attributes and input checks of FrcnnBiasRelu and its gradient, which the CPU and GPU kernels share.
#pragma once

#include "bias_relu.h"
#include "ops.h"

namespace frcnn {

class BiasReluOp : public tensorflow::OpKernel {
 public:
  explicit BiasReluOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("T", &type_));
    OP_REQUIRES_OK(context, context->GetAttr("relu", &relu_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &inputs = context->input(0), &bias = context->input(1);
    const int dims = inputs.dims(), residuals = context->num_inputs() - 2;
    OP_REQUIRES(context, residuals <= 1, InvalidArgument("bias_relu: ", residuals, " residuals; expected 0 or 1"));
    OP_REQUIRES(context, dims >= 2 && bias.dims() == 1 && bias.dim_size(0) == inputs.dim_size(dims - 1),
                InvalidArgument("bias_relu: inputs ", inputs.shape().DebugString(), ", bias ",
                                bias.shape().DebugString(), "; expected [..., C] and [C]"));
    OP_REQUIRES(context, residuals == 0 || context->input(2).shape() == inputs.shape(),
                InvalidArgument("bias_relu: residual ", context->input(2).shape().DebugString(), "; expected ",
                                inputs.shape().DebugString(), " as the inputs"));
    Tensor* outputs;
    OP_REQUIRES_OK(context, residuals == 0
                                ? context->forward_input_or_allocate_output({0}, 0, inputs.shape(), &outputs)
                                : context->forward_input_or_allocate_output({0, 2}, 0, inputs.shape(), &outputs));
    const int64_t channels = bias.dim_size(0);
    run(context, {dtype_of(type_), relu_, channels > 0 ? inputs.NumElements() / channels : 0, channels, inputs.data(),
                  bias.flat<float>().data(), residuals > 0 ? context->input(2).data() : nullptr, outputs->data()});
  }

 protected:
  virtual void run(OpKernelContext* context, const BiasReluCall& call) const = 0;

 private:
  tensorflow::DataType type_;
  bool relu_;
};

class BiasReluGradOp : public tensorflow::OpKernel {
 public:
  explicit BiasReluGradOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("T", &type_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &upstream = context->input(0), &outputs = context->input(1);
    OP_REQUIRES(context, upstream.shape() == outputs.shape(),
                InvalidArgument("bias_relu's gradient: upstream ", upstream.shape().DebugString(), "; expected ",
                                outputs.shape().DebugString()));
    Tensor* gradient;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0, 1}, 0, outputs.shape(), &gradient));
    run(context, {dtype_of(type_), outputs.NumElements(), upstream.data(), outputs.data(), gradient->data()});
  }

 protected:
  virtual void run(OpKernelContext* context, const BiasReluGradientCall& call) const = 0;

 private:
  tensorflow::DataType type_;
};

}  // namespace frcnn
