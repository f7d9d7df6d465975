// Input checks of FrcnnChannelScale, which the CPU and GPU kernels share.
#pragma once

#include <vector>

#include "channel_scale.h"
#include "ops.h"

namespace frcnn {

class ChannelScaleOp : public tensorflow::OpKernel {
 public:
  explicit ChannelScaleOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("From", &from_));
    OP_REQUIRES_OK(context, context->GetAttr("To", &to_));
    OP_REQUIRES(context, from_ == tensorflow::DT_FLOAT || to_ == tensorflow::DT_FLOAT,
                InvalidArgument("channel_scale: neither the inputs nor the outputs are float32"));
  }

  void Compute(OpKernelContext* context) override {
    OpInputList inputs, scales;
    OpOutputList outputs;
    OP_REQUIRES_OK(context, context->input_list("inputs", &inputs));
    OP_REQUIRES_OK(context, context->input_list("scales", &scales));
    OP_REQUIRES_OK(context, context->output_list("outputs", &outputs));
    std::vector<ChannelScaled> tensors;
    for (int i = 0; i < inputs.size(); ++i) {
      const TensorShape &shape = inputs[i].shape(), &channels = scales[i].shape();
      OP_REQUIRES(context,
                  shape.dims() >= 1 && channels.dims() == 1 && channels.dim_size(0) == shape.dim_size(shape.dims() - 1),
                  InvalidArgument("channel_scale: inputs ", shape.DebugString(), ", scale ", channels.DebugString(),
                                  "; expected [..., C] and [C]"));
      Tensor* output;
      OP_REQUIRES_OK(context, outputs.allocate(i, shape, &output));
      tensors.push_back({shape.num_elements(), channels.dim_size(0), inputs[i].data(), scales[i].flat<float>().data(),
                         output->data()});
    }
    run(context, {dtype_of(from_), dtype_of(to_), tensors.data(), int64_t(tensors.size())});
  }

 protected:
  virtual void run(OpKernelContext* context, const ChannelScaleCall& call) const = 0;

 private:
  tensorflow::DataType from_, to_;
};

}  // namespace frcnn
