// Launches RoIAlign and its gradient on a GPU.
#include "cuda_driver.h"
#include "cuda_launch.h"

namespace frcnn {
namespace {

constexpr size_t kSharedBytes = 48 * 1024;  // available on every GPU without opt-in
constexpr const char* kTooLarge =
    "the feature maps are too large for the GPU kernels (limit: about 2900 pixels per side)";

int64_t map_size(const Pyramid& pyramid, int level) {
  return int64_t(pyramid.batch) * pyramid.height[level] * pyramid.width[level] * pyramid.channels;
}

// Shared memory for the taps of any RoI.
size_t table_bytes(const RoiAlignCall& call) {
  int height = 0, width = 0;
  for (int level = 0; level < call.pyramid.levels; ++level) {
    height = call.pyramid.height[level] > height ? call.pyramid.height[level] : height;
    width = call.pyramid.width[level] > width ? call.pyramid.width[level] : width;
  }
  const int bins = call.pooling.bins;
  return sizeof(Tap) * (2 * bins + taps_capacity(height, bins) + taps_capacity(width, bins));
}

bool too_large(const RoiAlignCall& call) {
  return table_bytes(call) > kSharedBytes || map_size(call.pyramid, 0) / call.pyramid.channels > 0x7fffffff;
}

std::string dtype_name(const RoiAlignCall& call) {
  return call.dtype == DType::kFloat32 ? "float32" : call.dtype == DType::kBFloat16 ? "bfloat16" : "float16";
}

// Channels per load and store.
int vector_width(const RoiAlignCall& call) {
  const int width = kVectorBytes / (call.dtype == DType::kFloat32 ? 4 : 2);
  return call.pyramid.channels % width == 0 ? width : 1;
}

std::string kernel_name(const char* prefix, const RoiAlignCall& call) {
  return prefix + dtype_name(call) + "_x" + std::to_string(vector_width(call));
}

int64_t blocks(int64_t count, int64_t size) {
  return (count + size - 1) / size;
}

Grid pooling_grid(const RoiAlignCall& call) {
  const int64_t items = int64_t(call.pooling.bins) * call.pooling.bins * (call.pyramid.channels / vector_width(call));
  return {call.count, blocks(items, FRCNN_THREADS * kItemsPerThread)};
}

Maps maps_of(const RoiAlignCall& call, const void* const* levels) {
  Maps maps = {};
  for (int level = 0; level < call.pyramid.levels; ++level) maps.level[level] = const_cast<void*>(levels[level]);
  return maps;
}

const char* launch_gather(const RoiAlignCall& call, const void* upstream, const Maps& gradients, void* stream) {
  int64_t rows = 0;
  for (int level = 0; level < call.pyramid.levels; ++level)
    rows += int64_t(call.pyramid.batch) * call.pyramid.height[level] * strips(call.pyramid.width[level]);
  const int packets = call.pyramid.channels / vector_width(call);
  const size_t shared = sizeof(float) * call.pooling.bins * (1 + kStrip) + sizeof(int) * FRCNN_THREADS;
  return Kernel<GatherKernel>{kernel_name("frcnn_gather_", call)}.launch(
      {rows, blocks(packets, FRCNN_THREADS / kStrip)}, FRCNN_THREADS, shared, stream, call.pyramid, call.pooling,
      call.boxes, call.box_image, call.count, upstream, gradients);
}

const char* launch_scatter(const RoiAlignCall& call, const void* upstream, const Maps& gradients, float* sums,
                           void* stream) {
  const bool in_place = call.dtype == DType::kFloat32;
  Maps targets = gradients;
  for (int level = 0; level < call.pyramid.levels; ++level) {
    if (!in_place) {
      targets.level[level] = sums;
      sums += map_size(call.pyramid, level);
    }
    const size_t bytes = map_size(call.pyramid, level) * sizeof(float);
    if (const char* error = set_bytes(targets.level[level], 0, bytes, stream)) return error;
  }
  if (call.count > 0) {
    const char* error = Kernel<ScatterKernel>{kernel_name("frcnn_scatter_", call)}.launch(
        pooling_grid(call), FRCNN_THREADS, table_bytes(call), stream, call.pyramid, call.pooling, call.boxes,
        call.box_image, upstream, targets);
    if (error != nullptr) return error;
  }
  for (int level = 0; !in_place && level < call.pyramid.levels; ++level) {
    const int64_t size = map_size(call.pyramid, level);
    const char* error = Kernel<RoundKernel>{"frcnn_round_" + dtype_name(call)}.launch(
        {blocks(size, FRCNN_THREADS)}, FRCNN_THREADS, 0, stream, static_cast<const float*>(targets.level[level]), size,
        gradients.level[level]);
    if (error != nullptr) return error;
  }
  return nullptr;
}

}  // namespace

const char* launch_roi_align(const RoiAlignCall& call, const void* const* features, void* pooled, void* stream) {
  if (call.count == 0 || call.pyramid.channels == 0) return nullptr;
  if (too_large(call)) return kTooLarge;
  return Kernel<RoiAlignKernel>{kernel_name("frcnn_roi_align_", call)}.launch(
      pooling_grid(call), FRCNN_THREADS, table_bytes(call), stream, call.pyramid, call.pooling, call.boxes,
      call.box_image, maps_of(call, features), pooled);
}

int64_t roi_align_gradient_sums(const RoiAlignCall& call, bool deterministic) {
  int64_t elements = 0;
  if (!deterministic && call.dtype != DType::kFloat32)
    for (int level = 0; level < call.pyramid.levels; ++level) elements += map_size(call.pyramid, level);
  return elements;
}

const char* launch_roi_align_gradient(const RoiAlignCall& call, const void* upstream, void* const* gradients,
                                      float* sums, bool deterministic, void* stream) {
  if (call.pyramid.batch == 0 || call.pyramid.channels == 0) return nullptr;
  if (too_large(call)) return kTooLarge;
  const Maps maps = maps_of(call, gradients);
  return deterministic ? launch_gather(call, upstream, maps, stream)
                       : launch_scatter(call, upstream, maps, sums, stream);
}

}  // namespace frcnn
