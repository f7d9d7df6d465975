// Registration of the operations with TensorFlow, and their CPU kernels on TensorFlow's thread pool.
#include "ops.h"

#include "cpu.h"
#include "cpu_device.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace frcnn {
namespace {

using tensorflow::DEVICE_CPU;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

absl::Status PooledShape(InferenceContext* c) {
  int levels, bins;
  TF_RETURN_IF_ERROR(c->GetAttr("L", &levels));
  TF_RETURN_IF_ERROR(c->GetAttr("output_size", &bins));
  ShapeHandle map, boxes;
  for (int level = 0; level < levels; ++level) TF_RETURN_IF_ERROR(c->WithRank(c->input(level), 4, &map));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(levels), 2, &boxes));
  c->set_output(0, c->MakeShape({c->Dim(boxes, 0), bins, bins, c->Dim(map, 3)}));
  return absl::OkStatus();
}

absl::Status PyramidShapes(InferenceContext* c) {
  for (int level = 0; level < c->num_outputs(); ++level) c->set_output(level, c->input(level));
  return absl::OkStatus();
}

absl::Status KeptShapes(InferenceContext* c) {
  int max_outputs;
  TF_RETURN_IF_ERROR(c->GetAttr("max_outputs", &max_outputs));
  ShapeHandle scores;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &scores));
  c->set_output(0, c->MakeShape({c->Dim(scores, 0), max_outputs}));
  c->set_output(1, c->MakeShape({c->Dim(scores, 0)}));
  return absl::OkStatus();
}

#define FRCNN_POOLING_ATTRIBUTES          \
  Attr("L: int >= 1")                     \
      .Attr("T: {float, bfloat16, half}") \
      .Attr("scales: list(float)")        \
      .Attr("starts: list(float)")        \
      .Attr("output_size: int >= 1")      \
      .Attr("sampling_ratio: int >= 0")   \
      .Attr("aligned: bool")

REGISTER_OP("FrcnnRoiAlign")
    .Input("pyramid: L * T")
    .Input("boxes: float")
    .Input("box_image: int32")
    .Output("pooled: T")
    .FRCNN_POOLING_ATTRIBUTES
.SetShapeFn(PooledShape);

// Only the shapes of the pyramid are used.
REGISTER_OP("FrcnnRoiAlignGrad")
    .Input("pyramid: L * T")
    .Input("boxes: float")
    .Input("box_image: int32")
    .Input("upstream: T")
    .Output("gradients: L * T")
    .FRCNN_POOLING_ATTRIBUTES
.SetShapeFn(PyramidShapes);

REGISTER_OP("FrcnnNms")
    .Input("boxes: float")
    .Input("scores: float")
    .Input("groups: int32")
    .Output("indices: int32")
    .Output("counts: int32")
    .Attr("iou_threshold: float")
    .Attr("max_outputs: int >= 1")
    .SetShapeFn(KeptShapes);

class RoiAlignCpu : public PoolingKernel {
 public:
  using PoolingKernel::PoolingKernel;

  void Compute(OpKernelContext* context) override {
    Pyramid pyramid;
    OpInputList maps;
    const Tensor *boxes, *box_image;
    if (!check(context, &pyramid, &maps, &boxes, &box_image)) return;
    const int64_t count = boxes->dim_size(0);
    Tensor* pooled;
    OP_REQUIRES_OK(context,
                   context->allocate_output(0, {count, pooling_.bins, pooling_.bins, pyramid.channels}, &pooled));
    advise_huge_pages(*pooled);
    const void* features[kMaxLevels];
    for (int level = 0; level < pyramid.levels; ++level) features[level] = maps[level].data();
    const ParallelFor parallel = device_threads(context);
    const Plan plan =
        make_plan(pyramid, pooling_, boxes->flat<float>().data(), box_image->flat<int32_t>().data(), count, parallel);
    roi_align_forward(plan, dtype_of(type_), features, pooled->data(), parallel);
  }
};

class RoiAlignGradCpu : public PoolingKernel {
 public:
  using PoolingKernel::PoolingKernel;

  void Compute(OpKernelContext* context) override {
    Pyramid pyramid;
    OpInputList maps;
    const Tensor *boxes, *box_image, *upstream;
    if (!check(context, &pyramid, &maps, &boxes, &box_image)) return;
    const int64_t count = boxes->dim_size(0);
    Tensor* outputs[kMaxLevels];
    if (!check_gradient(context, pyramid, maps, count, &upstream, outputs)) return;
    void* gradients[kMaxLevels];
    for (int level = 0; level < pyramid.levels; ++level) {
      advise_huge_pages(*outputs[level]);
      gradients[level] = outputs[level]->data();
    }
    const ParallelFor parallel = device_threads(context);
    const Plan plan =
        make_plan(pyramid, pooling_, boxes->flat<float>().data(), box_image->flat<int32_t>().data(), count, parallel);
    roi_align_backward(plan, dtype_of(type_), upstream->data(), gradients, parallel);
  }
};

class NmsCpu : public SuppressionKernel {
 public:
  using SuppressionKernel::SuppressionKernel;

  void Compute(OpKernelContext* context) override {
    Tensor *indices, *counts;
    if (!check(context, &indices, &counts)) return;
    const Tensor &boxes = context->input(0), &scores = context->input(1), &groups = context->input(2);
    const int64_t batch = scores.dim_size(0), candidates = scores.dim_size(1);
    const ParallelFor parallel = device_threads(context);
    const ParallelFor serial = [](int64_t count, int64_t, const Body& body) { body(0, count); };
    parallel(batch, 1, [&](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; ++b) {
        int32_t* kept = indices->flat<int32_t>().data() + b * max_outputs_;
        const int found =
            nms(boxes.flat<float>().data() + b * candidates * 4, scores.flat<float>().data() + b * candidates,
                groups.flat<int32_t>().data() + b * candidates, int(candidates), iou_threshold_, max_outputs_, kept,
                batch == 1 ? parallel : serial);
        std::fill(kept + found, kept + max_outputs_, -1);
        counts->flat<int32_t>()(b) = found;
      }
    });
  }
};

REGISTER_KERNEL_BUILDER(Name("FrcnnRoiAlign").Device(DEVICE_CPU), RoiAlignCpu);
REGISTER_KERNEL_BUILDER(Name("FrcnnRoiAlignGrad").Device(DEVICE_CPU), RoiAlignGradCpu);
REGISTER_KERNEL_BUILDER(Name("FrcnnNms").Device(DEVICE_CPU), NmsCpu);

}  // namespace
}  // namespace frcnn
