// Attributes and input checks that the CPU and GPU kernels of an operation share.
#pragma once

#include "roi_align.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace frcnn {

using tensorflow::OpInputList;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::OpOutputList;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::errors::InvalidArgument;

inline DType dtype_of(tensorflow::DataType type) {
  return type == tensorflow::DT_FLOAT      ? DType::kFloat32
         : type == tensorflow::DT_BFLOAT16 ? DType::kBFloat16
                                           : DType::kFloat16;
}

// FrcnnRoiAlign and its gradient.
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
    OP_REQUIRES(context, levels <= kMaxLevels && scales.size() == levels && starts.size() + 1 == levels,
                InvalidArgument("roi_align: ", levels, " levels with ", scales.size(), " scales and ", starts.size(),
                                " starts; expected at most ", kMaxLevels,
                                " levels, as many scales, and a start for each level but the first"));
    for (size_t level = 0; level < levels; ++level) {
      pyramid_.scale[level] = scales[level];
      pyramid_.start[level] = level == 0 ? 0.0f : starts[level - 1];
    }
  }

 protected:
  // Returns the shape of the pyramid and the boxes, or fails the operation and returns false.
  bool check(OpKernelContext* context, Pyramid* pyramid, OpInputList* maps, const Tensor** boxes,
             const Tensor** box_image) const {
    *pyramid = pyramid_;
    if (!context->input_list("pyramid", maps).ok() || !context->input("boxes", boxes).ok() ||
        !context->input("box_image", box_image).ok()) {
      context->CtxFailure(InvalidArgument("roi_align: an input is missing"));
      return false;
    }
    for (int level = 0; level < pyramid->levels; ++level) {
      const TensorShape& shape = (*maps)[level].shape();
      const TensorShape& first = (*maps)[0].shape();
      if (shape.dims() != 4 || shape.dim_size(0) != first.dim_size(0) || shape.dim_size(3) != first.dim_size(3) ||
          shape.dim_size(1) < 1 || shape.dim_size(2) < 1 || shape.num_elements() > int64_t{1} << 40 ||
          shape.dim_size(1) > 1 << 20 || shape.dim_size(2) > 1 << 20) {
        context->CtxFailure(InvalidArgument("roi_align: level ", level, " of the pyramid is ", shape.DebugString(),
                                            "; expected [B, H, W, C] with the B and C of ", first.DebugString(),
                                            " and H, W of 1 to 2^20"));
        return false;
      }
      pyramid->height[level] = int(shape.dim_size(1));
      pyramid->width[level] = int(shape.dim_size(2));
    }
    pyramid->batch = int((*maps)[0].dim_size(0));
    pyramid->channels = int((*maps)[0].dim_size(3));
    const Tensor &box = **boxes, &image = **box_image;
    if (box.dims() != 2 || box.dim_size(1) != 4 || image.dims() != 1 || image.dim_size(0) != box.dim_size(0)) {
      context->CtxFailure(InvalidArgument("roi_align: boxes ", box.shape().DebugString(), " and box_image ",
                                          image.shape().DebugString(), "; expected [N, 4] and [N]"));
      return false;
    }
    return true;
  }

  // Returns the upstream gradient and allocates the outputs, or fails the operation and returns false.
  bool check_gradient(OpKernelContext* context, const Pyramid& pyramid, const OpInputList& maps, int64_t count,
                      const Tensor** upstream, Tensor** gradients) const {
    OpOutputList outputs;
    if (!context->input("upstream", upstream).ok() || !context->output_list("gradients", &outputs).ok()) {
      context->CtxFailure(InvalidArgument("roi_align's gradient: an input is missing"));
      return false;
    }
    const TensorShape expected({count, pooling_.bins, pooling_.bins, pyramid.channels});
    if ((*upstream)->shape() != expected) {
      context->CtxFailure(InvalidArgument("roi_align's gradient: upstream ", (*upstream)->shape().DebugString(),
                                          "; expected ", expected.DebugString()));
      return false;
    }
    for (int level = 0; level < pyramid.levels; ++level) {
      const absl::Status allocated = outputs.allocate(level, maps[level].shape(), &gradients[level]);
      if (!allocated.ok()) {
        context->CtxFailure(allocated);
        return false;
      }
    }
    return true;
  }

  Pyramid pyramid_;
  Pooling pooling_;
  tensorflow::DataType type_;
};

// FrcnnNms.
class SuppressionKernel : public tensorflow::OpKernel {
 public:
  explicit SuppressionKernel(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("iou_threshold", &iou_threshold_));
    OP_REQUIRES_OK(context, context->GetAttr("max_outputs", &max_outputs_));
  }

 protected:
  // Allocates the outputs, or fails the operation and returns false.
  bool check(OpKernelContext* context, Tensor** indices, Tensor** counts) const {
    const Tensor &boxes = context->input(0), &scores = context->input(1), &groups = context->input(2);
    if (scores.dims() != 2 || groups.shape() != scores.shape() || boxes.dims() != 3 ||
        boxes.dim_size(0) != scores.dim_size(0) || boxes.dim_size(1) != scores.dim_size(1) || boxes.dim_size(2) != 4 ||
        scores.dim_size(1) >= int64_t{1} << 30) {
      context->CtxFailure(InvalidArgument("nms: boxes ", boxes.shape().DebugString(), ", scores ",
                                          scores.shape().DebugString(), ", groups ", groups.shape().DebugString(),
                                          "; expected [B, N, 4], [B, N] and [B, N]"));
      return false;
    }
    const int64_t batch = scores.dim_size(0);
    absl::Status allocated = context->allocate_output(0, {batch, max_outputs_}, indices);
    allocated.Update(context->allocate_output(1, {batch}, counts));
    if (!allocated.ok()) context->CtxFailure(allocated);
    return allocated.ok();
  }

  float iou_threshold_;
  int max_outputs_;
};

}  // namespace frcnn
