// Global norm and updates of all variables, registered with TensorFlow for the CPU.
#include "cpu.h"
#include "cpu_device.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "update_op.h"

namespace frcnn {
namespace {

using tensorflow::DEVICE_CPU;
using tensorflow::shape_inference::InferenceContext;

// scalars: the fields of UpdateScalars.
REGISTER_OP("FrcnnUpdate")
    .Input("weights: N * resource")
    .Input("first: F * resource")
    .Input("second: S * resource")
    .Input("gradients: G * float")
    .Input("scalars: float")
    .Attr("N: int >= 1")
    .Attr("F: int >= 0")
    .Attr("S: int >= 0")
    .Attr("G: int >= 0")
    .Attr("rule: {'sgd', 'momentum', 'nesterov', 'adamw', 'average'}")
    .Attr("rate_factors: list(float)")
    .Attr("decays: list(float)")
    .Attr("momentum: float = 0")
    .Attr("beta1: float = 0")
    .Attr("beta2: float = 0")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext*) { return absl::OkStatus(); });

REGISTER_OP("FrcnnGlobalNorm")
    .Input("tensors: N * float")
    .Output("norm: float")
    .Attr("N: int >= 1")
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->Scalar());
      return absl::OkStatus();
    });

class UpdateCpu : public UpdateOp {
 public:
  using UpdateOp::UpdateOp;

 protected:
  void run(OpKernelContext* context, const UpdateCall& call) const override {
    update_all(call, device_threads(context));
  }
};

class GlobalNormCpu : public GlobalNormOp {
 public:
  using GlobalNormOp::GlobalNormOp;

 protected:
  void run(OpKernelContext* context, const Normed* tensors, int64_t count, float* norm) const override {
    *norm = global_norm(tensors, count, device_threads(context));
  }
};

REGISTER_KERNEL_BUILDER(Name("FrcnnUpdate").Device(DEVICE_CPU), UpdateCpu);
REGISTER_KERNEL_BUILDER(Name("FrcnnGlobalNorm").Device(DEVICE_CPU), GlobalNormCpu);

}  // namespace
}  // namespace frcnn
