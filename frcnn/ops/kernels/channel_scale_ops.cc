// Tensors times a factor per channel, registered with TensorFlow for the CPU.
#include "channel_scale_op.h"
#include "cpu.h"
#include "cpu_device.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace frcnn {
namespace {

REGISTER_OP("FrcnnChannelScale")
    .Input("inputs: N * From")
    .Input("scales: N * float")
    .Output("outputs: N * To")
    .Attr("N: int >= 1")
    .Attr("From: {float, bfloat16, half}")
    .Attr("To: {float, bfloat16, half}")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* c) {
      for (int i = 0; i < c->num_outputs(); ++i) c->set_output(i, c->input(i));
      return absl::OkStatus();
    });

class ChannelScaleCpu : public ChannelScaleOp {
 public:
  using ChannelScaleOp::ChannelScaleOp;

 protected:
  void run(OpKernelContext* context, const ChannelScaleCall& call) const override {
    channel_scale(call, device_threads(context));
  }
};

REGISTER_KERNEL_BUILDER(Name("FrcnnChannelScale").Device(tensorflow::DEVICE_CPU), ChannelScaleCpu);

}  // namespace
}  // namespace frcnn
