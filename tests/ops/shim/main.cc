// One call of an operation: `program OPERATION ORDER < inputs > outputs`; arrays are raw bytes in both directions.
//
// Memory is allocated through the CUDA driver API: the program is linked with the fake driver, or with NVIDIA's.
// Buffers have their exact size, so that a sanitizer detects accesses beyond them, and outputs are filled with 0xff
// before (not with FRCNN_RAW=1, for tools that look for memory that was not written). ORDER and the bytes of memory
// traffic, printed to stderr, concern the fake driver only.
#include <string>

#include "buffer.h"
#include "many_tensors.h"
#include "resize.h"

using namespace frcnn;

extern "C" __attribute__((weak)) void frcnn_shim_order(const char* order);
extern "C" __attribute__((weak)) long long frcnn_shim_bytes();
namespace frcnn {
__attribute__((weak)) void resize_to_canvas(const ResizeCall& call);  // a CPU kernel only
}

namespace {

const char* run_roi_align(const std::string& operation, CUstream stream) {
  // levels, batch, channels, bins, sampling ratio, aligned, dtype, boxes; then heights, widths, scales, starts, boxes,
  // images
  const auto head = read_array<int32_t>(8);
  RoiAlignCall call = {};
  call.pyramid.levels = head[0], call.pyramid.batch = head[1], call.pyramid.channels = head[2];
  call.pooling = {head[3], head[4], head[5] != 0};
  call.dtype = DType(head[6]);
  call.count = head[7];
  const auto heights = read_array<int32_t>(head[0]), widths = read_array<int32_t>(head[0]);
  const auto scales = read_array<float>(head[0]), starts = read_array<float>(head[0]);
  const Buffer boxes = Buffer::from_stdin(16 * call.count), images = Buffer::from_stdin(4 * call.count);
  call.boxes = boxes.data<float>(), call.box_image = images.data<int32_t>();
  std::vector<Buffer> maps;
  std::vector<void*> pointers;
  const int64_t pooled_bytes = call.count * head[3] * head[3] * head[2] * bytes_of(call.dtype);
  for (int level = 0; level < head[0]; ++level) {
    call.pyramid.height[level] = heights[level], call.pyramid.width[level] = widths[level];
    call.pyramid.scale[level] = scales[level], call.pyramid.start[level] = starts[level];
    const size_t bytes = size_t(head[1]) * heights[level] * widths[level] * head[2] * bytes_of(call.dtype);
    maps.push_back(operation == "roi_align" ? Buffer::from_stdin(bytes) : Buffer(bytes));
    pointers.push_back(maps.back().data());
  }
  if (operation == "roi_align") {
    const Buffer pooled(pooled_bytes);
    const char* error = launch_roi_align(call, pointers.data(), pooled.data(), stream);
    check(cuStreamSynchronize(stream));
    pooled.print();
    return error;
  }
  const Buffer upstream = Buffer::from_stdin(pooled_bytes);
  const Buffer workspace(roi_align_gradient_workspace_bytes(call));
  const char* error = launch_roi_align_gradient(call, upstream.data(), pointers.data(), workspace.data(), stream);
  check(cuStreamSynchronize(stream));
  for (const auto& map : maps) map.print();
  return error;
}

const char* run_nms(CUstream stream) {
  // batch, candidates, outputs; threshold; then boxes, scores, groups
  const auto head = read_array<int32_t>(3);
  const auto threshold = read_array<float>(1);
  const int64_t count = int64_t(head[0]) * head[1];
  const Buffer boxes = Buffer::from_stdin(16 * count), scores = Buffer::from_stdin(4 * count);
  const Buffer groups = Buffer::from_stdin(4 * count);
  const Buffer indices(sizeof(int32_t) * head[0] * head[2]), counts(sizeof(int32_t) * head[0]);
  const NmsCall call = {head[0],
                        head[1],
                        head[2],
                        threshold[0],
                        boxes.data<float>(),
                        scores.data<float>(),
                        groups.data<int32_t>(),
                        indices.data<int32_t>(),
                        counts.data<int32_t>()};
  const Buffer workspace(nms_workspace_bytes(call));
  const char* error = launch_nms(call, workspace.data(), stream);
  check(cuStreamSynchronize(stream));
  indices.print();
  counts.print();
  return error;
}

const char* run_bias_relu(const std::string& operation, CUstream stream) {
  // dtype, rows, channels, relu, residual, offset; then inputs, bias, residual. The outputs replace the inputs. The
  // offset in elements shifts them from an aligned address. Gradient: upstream and outputs; it replaces upstream.
  const auto head = read_array<int32_t>(6);
  const DType dtype = DType(head[0]);
  const int64_t size = int64_t(head[1]) * head[2], shift = head[5] * bytes_of(dtype);
  const Buffer inputs = Buffer::from_stdin(shift + size * bytes_of(dtype));
  const char* error;
  if (operation == "bias_relu") {
    const Buffer bias = Buffer::from_stdin(sizeof(float) * head[2]);
    const Buffer residual = Buffer::from_stdin(head[4] ? size * bytes_of(dtype) : 0);
    void* place = inputs.data<char>() + shift;
    error = launch_bias_relu({dtype, head[3] != 0, head[1], head[2], place, bias.data<float>(), residual.data(), place},
                             stream);
  } else {
    const Buffer outputs = Buffer::from_stdin(size * bytes_of(dtype));
    void* place = inputs.data<char>() + shift;
    error = launch_bias_relu_gradient({dtype, size, place, outputs.data(), place}, stream);
  }
  check(cuStreamSynchronize(stream));
  inputs.print();
  return error;
}

// Header of group norm: batch, pixels, channels, groups, dtype, ReLU.
constexpr int kNormHeader = 6;

struct NormSizes {
  explicit NormSizes(const std::vector<int32_t>& head)
      : elements(int64_t(head[0]) * head[1] * head[2] * bytes_of(DType(head[4]))),
        channels(4 * head[2]),
        statistics(4 * head[0] * head[3]) {}
  int64_t elements, channels, statistics;  // bytes
};

GroupNormCall make_call(const std::vector<int32_t>& head, const Buffer& inputs, const Buffer& gamma,
                        const Buffer& beta) {
  return {{head[0], head[1], head[2], head[3]},
          DType(head[4]),
          head[5] != 0,
          inputs.data(),
          gamma.data<float>(),
          beta.data<float>()};
}

const char* run_group_norm(CUstream stream) {
  // header, epsilon, inputs, gamma, beta; prints outputs, mean, rstd
  const auto head = read_array<int32_t>(kNormHeader);
  const auto epsilon = read_array<float>(1);
  const NormSizes sizes(head);
  const Buffer inputs = Buffer::from_stdin(sizes.elements), gamma = Buffer::from_stdin(sizes.channels);
  const Buffer beta = Buffer::from_stdin(sizes.channels);
  const Buffer outputs(sizes.elements), mean(sizes.statistics), rstd(sizes.statistics);
  const GroupNormCall call = make_call(head, inputs, gamma, beta);
  const Buffer workspace(group_norm_workspace_bytes(call));
  const char* error = launch_group_norm(call, epsilon[0], outputs.data(), mean.data<float>(), rstd.data<float>(),
                                        workspace.data(), stream);
  check(cuStreamSynchronize(stream));
  for (const Buffer* buffer : {&outputs, &mean, &rstd}) buffer->print();
  return error;
}

const char* run_group_norm_gradient(CUstream stream) {
  // header, upstream, inputs, gamma, beta, mean, rstd; prints the gradients of inputs, which replaces upstream, gamma
  // and beta
  const auto head = read_array<int32_t>(kNormHeader);
  const NormSizes sizes(head);
  const Buffer upstream = Buffer::from_stdin(sizes.elements), inputs = Buffer::from_stdin(sizes.elements);
  const Buffer gamma = Buffer::from_stdin(sizes.channels), beta = Buffer::from_stdin(sizes.channels);
  const Buffer mean = Buffer::from_stdin(sizes.statistics), rstd = Buffer::from_stdin(sizes.statistics);
  const Buffer gamma_gradient(sizes.channels), beta_gradient(sizes.channels);
  const GroupNormCall call = make_call(head, inputs, gamma, beta);
  const Buffer workspace(group_norm_workspace_bytes(call));
  const char* error =
      launch_group_norm_gradient(call, upstream.data(), mean.data<float>(), rstd.data<float>(), upstream.data(),
                                 gamma_gradient.data<float>(), beta_gradient.data<float>(), workspace.data(), stream);
  check(cuStreamSynchronize(stream));
  for (const Buffer* buffer : {&upstream, &gamma_gradient, &beta_gradient}) buffer->print();
  return error;
}

const char* run_resize(const std::string& operation) {
  // antialiased; height and width before and after; y and x of the crop; height and width of the canvas; flips;
  // reversed channels; height may be first; extent; mean and reciprocal deviation of the channels; then pixels
  const auto head = read_array<int32_t>(13);
  const auto extent = read_array<float>(2), mean = read_array<float>(3), inverse_std = read_array<float>(3);
  const bool normalize = operation == "resize_and_normalize";
  const Buffer pixels = Buffer::from_stdin(3 * head[1] * head[2]);
  const Buffer canvas(3 * head[7] * head[8] * (normalize ? sizeof(float) : 1));
  ResizeCall call = {};
  call.filter = head[0] != 0 ? ResizeFilter::kAntialiased : ResizeFilter::kBilinear;
  call.pixels = pixels.data<uint8_t>();
  call.height = head[1], call.width = head[2];
  call.extent_height = extent[0], call.extent_width = extent[1];
  call.resized_height = head[3], call.resized_width = head[4];
  call.top = head[5], call.left = head[6];
  call.canvas_height = head[7], call.canvas_width = head[8];
  call.flip_vertically = head[9] != 0, call.flip_horizontally = head[10] != 0, call.reverse_channels = head[11] != 0;
  call.height_may_be_first = head[12] != 0;
  for (int c = 0; c < 3; ++c) call.mean[c] = mean[c], call.inverse_std[c] = inverse_std[c];
  if (normalize) {
    call.normalized = canvas.data<float>();
  } else {
    call.canvas = canvas.data<uint8_t>();
  }
  resize_to_canvas(call);
  canvas.print();
  return nullptr;
}

const char* run(const std::string& operation, CUstream stream) {
  if (operation.rfind("resize", 0) == 0) return run_resize(operation);
  if (operation == "nms") return run_nms(stream);
  if (operation.rfind("bias_relu", 0) == 0) return run_bias_relu(operation, stream);
  if (operation == "channel_scale") return run_channel_scale(stream);
  if (operation == "update") return run_update(stream);
  if (operation == "global_norm") return run_global_norm(stream);
  if (operation == "group_norm") return run_group_norm(stream);
  if (operation == "group_norm_gradient") return run_group_norm_gradient(stream);
  return run_roi_align(operation, stream);
}

}  // namespace

int main(int, char** arguments) {
  const std::string operation = arguments[1];
  if (frcnn_shim_order != nullptr) frcnn_shim_order(arguments[2]);
  CUdevice device;
  CUcontext context;
  CUstream stream;
  check(cuInit(0));
  check(cuDeviceGet(&device, 0));
  check(cuDevicePrimaryCtxRetain(&context, device));
  check(cuCtxSetCurrent(context));
  check(cuStreamCreate(&stream, 0));
  const char* error = run(operation, stream);
  fprintf(stderr, "%lld\n", frcnn_shim_bytes != nullptr ? frcnn_shim_bytes() : 0LL);
  if (error != nullptr) fprintf(stderr, "%s\n", error);
  return error == nullptr ? 0 : 5;
}
