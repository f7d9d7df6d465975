// TensorFlow's side: the two operations and the gradient, their shapes, checks and threads. Built with FRCNN_CUDA, also their GPU kernels.
#include <sys/mman.h>

#include "cpu.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace frcnn {
namespace {

using tensorflow::DEVICE_CPU;
using tensorflow::OpInputList;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::OpOutputList;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::errors::InvalidArgument;
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

// The pyramid comes for its shapes alone.
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

Number number_of(tensorflow::DataType type) {
  return type == tensorflow::DT_FLOAT ? Number::kFloat32 : type == tensorflow::DT_BFLOAT16 ? Number::kBFloat16 : Number::kFloat16;
}

// TensorFlow's own threads of the device, as the kernels want them.
ParallelFor threads_of(OpKernelContext* context) {
  tensorflow::thread::ThreadPool* pool = context->device()->tensorflow_cpu_worker_threads()->workers;
  return [pool](int64_t count, int64_t block, const Body& body) {
    using Scheduling = tensorflow::thread::ThreadPool::SchedulingParams;
    const Scheduling fixed(tensorflow::thread::ThreadPool::SchedulingStrategy::kFixedBlockSize, absl::nullopt, block);
    if (count > 0) pool->ParallelFor(count, fixed, body);
  };
}

// What FrcnnRoiAlign and its gradient share: attributes, checked inputs.
class PoolingKernel : public tensorflow::OpKernel {
 public:
  explicit PoolingKernel(OpKernelConstruction* context) : OpKernel(context) {
    std::vector<float> scales, starts;
    OP_REQUIRES_OK(context, context->GetAttr("scales", &scales));
    OP_REQUIRES_OK(context, context->GetAttr("starts", &starts));
    OP_REQUIRES_OK(context, context->GetAttr("L", &pyramid_.levels));
    OP_REQUIRES_OK(context, context->GetAttr("T", &type_));
    OP_REQUIRES_OK(context, context->GetAttr("output_size", &pooling_.bins));
    OP_REQUIRES_OK(context, context->GetAttr("sampling_ratio", &pooling_.sampling_ratio));
    OP_REQUIRES_OK(context, context->GetAttr("aligned", &pooling_.aligned));
    const size_t levels = pyramid_.levels;
    OP_REQUIRES(
        context, levels <= kMaxLevels && scales.size() == levels && starts.size() + 1 == levels,
        InvalidArgument("roi_align: ", levels, " levels with ", scales.size(), " scales and ", starts.size(), " starts; expected at most ",
                        kMaxLevels, " levels, as many scales, and a start for each level but the first"));
    for (size_t level = 0; level < levels; ++level) {
      pyramid_.scale[level] = scales[level];
      pyramid_.start[level] = level == 0 ? 0.0f : starts[level - 1];
    }
  }

 protected:
  // The pyramid's shape and the buffers of boxes, or an error of the operation.
  bool check(OpKernelContext* context, Pyramid* pyramid, OpInputList* maps, const Tensor** boxes, const Tensor** box_image) const {
    *pyramid = pyramid_;
    if (!context->input_list("pyramid", maps).ok() || !context->input("boxes", boxes).ok() ||
        !context->input("box_image", box_image).ok()) {
      context->CtxFailure(InvalidArgument("roi_align: an input is missing"));
      return false;
    }
    for (int level = 0; level < pyramid->levels; ++level) {
      const TensorShape& shape = (*maps)[level].shape();
      const TensorShape& first = (*maps)[0].shape();
      if (shape.dims() != 4 || shape.dim_size(0) != first.dim_size(0) || shape.dim_size(3) != first.dim_size(3) || shape.dim_size(1) < 1 ||
          shape.dim_size(2) < 1 || shape.num_elements() > int64_t{1} << 40 || shape.dim_size(1) > 1 << 20 || shape.dim_size(2) > 1 << 20) {
        context->CtxFailure(InvalidArgument("roi_align: level ", level, " of the pyramid is ", shape.DebugString(),
                                            "; expected [B, H, W, C] with the B and C of ", first.DebugString(), " and H, W of 1 to 2^20"));
        return false;
      }
      pyramid->height[level] = int(shape.dim_size(1));
      pyramid->width[level] = int(shape.dim_size(2));
    }
    pyramid->batch = int((*maps)[0].dim_size(0));
    pyramid->channels = int((*maps)[0].dim_size(3));
    const Tensor &box = **boxes, &image = **box_image;
    if (box.dims() != 2 || box.dim_size(1) != 4 || image.dims() != 1 || image.dim_size(0) != box.dim_size(0)) {
      context->CtxFailure(InvalidArgument("roi_align: boxes ", box.shape().DebugString(), " and box_image ", image.shape().DebugString(),
                                          "; expected [N, 4] and [N]"));
      return false;
    }
    return true;
  }

  Pyramid pyramid_;
  Pooling pooling_;
  tensorflow::DataType type_;
};

// Fresh memory costs a page fault for every 4 KiB written; large results ask for large pages. A hint: failure is no error.
void ask_for_large_pages(const Tensor& tensor) {
  constexpr size_t kLargePage = size_t{2} << 20;
  const size_t bytes = tensor.TotalBytes();
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(tensor.data()) + kLargePage - 1) & ~(kLargePage - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(tensor.data()) + bytes) & ~(kLargePage - 1);
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

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
    OP_REQUIRES_OK(context, context->allocate_output(0, {count, pooling_.bins, pooling_.bins, pyramid.channels}, &pooled));
    ask_for_large_pages(*pooled);
    const void* features[kMaxLevels];
    for (int level = 0; level < pyramid.levels; ++level) features[level] = maps[level].data();
    const ParallelFor parallel = threads_of(context);
    const Plan plan = make_plan(pyramid, pooling_, boxes->flat<float>().data(), box_image->flat<int32_t>().data(), count, parallel);
    roi_align_forward(plan, number_of(type_), features, pooled->data(), parallel);
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
    OP_REQUIRES_OK(context, context->input("upstream", &upstream));
    const int64_t count = boxes->dim_size(0);
    const TensorShape expected({count, pooling_.bins, pooling_.bins, pyramid.channels});
    OP_REQUIRES(context, upstream->shape() == expected,
                InvalidArgument("roi_align's gradient: upstream ", upstream->shape().DebugString(), "; expected ", expected.DebugString()));
    OpOutputList outputs;
    OP_REQUIRES_OK(context, context->output_list("gradients", &outputs));
    void* gradients[kMaxLevels];
    for (int level = 0; level < pyramid.levels; ++level) {
      Tensor* gradient;
      OP_REQUIRES_OK(context, outputs.allocate(level, maps[level].shape(), &gradient));
      ask_for_large_pages(*gradient);
      gradients[level] = gradient->data();
    }
    const ParallelFor parallel = threads_of(context);
    const Plan plan = make_plan(pyramid, pooling_, boxes->flat<float>().data(), box_image->flat<int32_t>().data(), count, parallel);
    roi_align_backward(plan, number_of(type_), upstream->data(), gradients, parallel);
  }
};

class NmsCpu : public tensorflow::OpKernel {
 public:
  explicit NmsCpu(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("iou_threshold", &iou_threshold_));
    OP_REQUIRES_OK(context, context->GetAttr("max_outputs", &max_outputs_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &boxes = context->input(0), &scores = context->input(1), &groups = context->input(2);
    OP_REQUIRES(context,
                scores.dims() == 2 && groups.shape() == scores.shape() && boxes.dims() == 3 && boxes.dim_size(0) == scores.dim_size(0) &&
                    boxes.dim_size(1) == scores.dim_size(1) && boxes.dim_size(2) == 4 && scores.dim_size(1) < int64_t{1} << 30,
                InvalidArgument("nms: boxes ", boxes.shape().DebugString(), ", scores ", scores.shape().DebugString(), ", groups ",
                                groups.shape().DebugString(), "; expected [B, N, 4], [B, N] and [B, N]"));
    const int64_t batch = scores.dim_size(0), candidates = scores.dim_size(1);
    Tensor *indices, *counts;
    OP_REQUIRES_OK(context, context->allocate_output(0, {batch, max_outputs_}, &indices));
    OP_REQUIRES_OK(context, context->allocate_output(1, {batch}, &counts));
    const ParallelFor parallel = threads_of(context);
    const ParallelFor alone = [](int64_t count, int64_t, const Body& body) { body(0, count); };
    parallel(batch, 1, [&](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; ++b) {
        int32_t* kept = indices->flat<int32_t>().data() + b * max_outputs_;
        const int found = nms(boxes.flat<float>().data() + b * candidates * 4, scores.flat<float>().data() + b * candidates,
                              groups.flat<int32_t>().data() + b * candidates, int(candidates), iou_threshold_, max_outputs_, kept,
                              batch == 1 ? parallel : alone);
        std::fill(kept + found, kept + max_outputs_, -1);
        counts->flat<int32_t>()(b) = found;
      }
    });
  }

 private:
  float iou_threshold_;
  int max_outputs_;
};

REGISTER_KERNEL_BUILDER(Name("FrcnnRoiAlign").Device(DEVICE_CPU), RoiAlignCpu);
REGISTER_KERNEL_BUILDER(Name("FrcnnRoiAlignGrad").Device(DEVICE_CPU), RoiAlignGradCpu);
REGISTER_KERNEL_BUILDER(Name("FrcnnNms").Device(DEVICE_CPU), NmsCpu);

}  // namespace
}  // namespace frcnn
