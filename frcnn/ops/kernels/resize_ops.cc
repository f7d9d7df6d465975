// The resize onto a canvas, registered with TensorFlow. It runs on the calling thread: the input pipeline resizes
// several images at a time.
#include "cpu.h"
#include "cpu_device.h"
#include "ops.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace frcnn {
namespace {

using tensorflow::DEVICE_CPU;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

constexpr int64_t kMaxSide = 1 << 26;  // three times as many values still have 32-bit offsets

absl::Status CanvasShape(InferenceContext* c) {
  ShapeHandle pixels, canvas;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 3, &pixels));
  TF_RETURN_IF_ERROR(c->MakeShapeFromShapeTensor(3, &canvas));
  TF_RETURN_IF_ERROR(c->WithRank(canvas, 2, &canvas));
  TF_RETURN_IF_ERROR(c->Concatenate(canvas, c->MakeShape({c->MakeDim(3)}), &canvas));
  c->set_output(0, canvas);
  return absl::OkStatus();
}

REGISTER_OP("FrcnnResizeToCanvas")
    .Input("pixels: uint8")
    .Input("resized: int32")
    .Input("offset: int32")
    .Input("canvas: int32")
    .Input("flips: bool")
    .Input("extent: float")
    .Output("image: uint8")
    .Attr("antialias: bool")
    .Attr("height_may_be_first: bool")
    .Attr("reverse_channels: bool")
    .SetShapeFn(CanvasShape);

REGISTER_OP("FrcnnResizeAndNormalize")
    .Input("pixels: uint8")
    .Input("resized: int32")
    .Input("offset: int32")
    .Input("canvas: int32")
    .Output("image: float")
    .Attr("mean: list(float)")
    .Attr("inverse_std: list(float)")
    .Attr("reverse_channels: bool")
    .SetShapeFn(CanvasShape);

// The inputs that both operations have.
class ResizeOp : public tensorflow::OpKernel {
 public:
  explicit ResizeOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("reverse_channels", &reverse_channels_));
  }

 protected:
  // Fills the call and allocates the image, or fails the operation and returns false.
  bool prepare(OpKernelContext* context, ResizeCall* call, Tensor** image) const {
    const Tensor& pixels = context->input(0);
    bool pairs = true;
    for (int n = 1; n < context->num_inputs(); ++n) pairs = pairs && context->input(n).shape() == TensorShape({2});
    if (!pairs || pixels.dims() != 3 || pixels.dim_size(2) != 3) {
      context->CtxFailure(InvalidArgument("resize: pixels ", pixels.shape().DebugString(),
                                          "; expected [h, w, 3], and two elements in all other inputs"));
      return false;
    }
    const auto resized = context->input(1).vec<int32_t>(), offset = context->input(2).vec<int32_t>();
    const auto canvas = context->input(3).vec<int32_t>();
    for (int axis = 0; axis < 2; ++axis) {
      if (!is_side(pixels.dim_size(axis)) || !is_side(resized(axis)) || !is_side(canvas(axis)) || offset(axis) < 0 ||
          offset(axis) >= resized(axis)) {
        context->CtxFailure(InvalidArgument("resize: ", pixels.dim_size(axis), " pixels resized to ", resized(axis),
                                            ", cropped at ", offset(axis), " to a canvas of ", canvas(axis),
                                            "; expected sides of 1 to ", kMaxSide,
                                            " and a crop within the resized image"));
        return false;
      }
    }
    const absl::Status allocated = context->allocate_output(0, {canvas(0), canvas(1), 3}, image);
    if (!allocated.ok()) {
      context->CtxFailure(allocated);
      return false;
    }
    advise_huge_pages(**image);
    call->pixels = pixels.flat<uint8_t>().data();
    call->height = int(pixels.dim_size(0)), call->width = int(pixels.dim_size(1));
    call->extent_height = float(call->height), call->extent_width = float(call->width);
    call->resized_height = resized(0), call->resized_width = resized(1);
    call->top = offset(0), call->left = offset(1);
    call->canvas_height = canvas(0), call->canvas_width = canvas(1);
    call->reverse_channels = reverse_channels_;
    return true;
  }

 private:
  static bool is_side(int64_t pixels) { return pixels >= 1 && pixels <= kMaxSide; }

  bool reverse_channels_;
};

class ResizeToCanvasCpu : public ResizeOp {
 public:
  explicit ResizeToCanvasCpu(OpKernelConstruction* context) : ResizeOp(context) {
    OP_REQUIRES_OK(context, context->GetAttr("antialias", &antialias_));
    OP_REQUIRES_OK(context, context->GetAttr("height_may_be_first", &height_may_be_first_));
  }

  void Compute(OpKernelContext* context) override {
    ResizeCall call = {};
    Tensor* image;
    if (!prepare(context, &call, &image)) return;
    call.filter = antialias_ ? ResizeFilter::kAntialiased : ResizeFilter::kBilinear;
    call.height_may_be_first = height_may_be_first_;
    const auto flips = context->input(4).vec<bool>();
    call.flip_vertically = flips(0), call.flip_horizontally = flips(1);
    const auto extent = context->input(5).vec<float>();
    OP_REQUIRES(context, within(extent(0), call.height) && within(extent(1), call.width),
                InvalidArgument("resize: extent ", extent(0), " x ", extent(1), " of an image of ", call.height, " x ",
                                call.width, " pixels"));
    call.extent_height = extent(0), call.extent_width = extent(1);
    call.canvas = image->flat<uint8_t>().data();
    resize_to_canvas(call);
  }

 private:
  static bool within(float extent, int side) { return extent > 0.0f && extent <= float(side); }

  bool antialias_, height_may_be_first_;
};

class ResizeAndNormalizeCpu : public ResizeOp {
 public:
  explicit ResizeAndNormalizeCpu(OpKernelConstruction* context) : ResizeOp(context) {
    OP_REQUIRES_OK(context, context->GetAttr("mean", &mean_));
    OP_REQUIRES_OK(context, context->GetAttr("inverse_std", &inverse_std_));
    OP_REQUIRES(context, mean_.size() == 3 && inverse_std_.size() == 3,
                InvalidArgument("resize: mean and inverse_std have three elements each"));
  }

  void Compute(OpKernelContext* context) override {
    ResizeCall call = {};
    Tensor* image;
    if (!prepare(context, &call, &image)) return;
    call.filter = ResizeFilter::kBilinear;
    std::copy(mean_.begin(), mean_.end(), call.mean);
    std::copy(inverse_std_.begin(), inverse_std_.end(), call.inverse_std);
    call.normalized = image->flat<float>().data();
    resize_to_canvas(call);
  }

 private:
  std::vector<float> mean_, inverse_std_;
};

REGISTER_KERNEL_BUILDER(Name("FrcnnResizeToCanvas").Device(DEVICE_CPU), ResizeToCanvasCpu);
REGISTER_KERNEL_BUILDER(Name("FrcnnResizeAndNormalize").Device(DEVICE_CPU), ResizeAndNormalizeCpu);

}  // namespace
}  // namespace frcnn
