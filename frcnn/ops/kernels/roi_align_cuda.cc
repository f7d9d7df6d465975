// Launches RoIAlign and its gradient on a GPU.
#include <type_traits>

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

struct Sides {
  int height = 0, width = 0;
};

// The largest ones of all levels.
Sides largest_sides(const Pyramid& pyramid) {
  Sides sides;
  for (int level = 0; level < pyramid.levels; ++level) {
    sides.height = pyramid.height[level] > sides.height ? pyramid.height[level] : sides.height;
    sides.width = pyramid.width[level] > sides.width ? pyramid.width[level] : sides.width;
  }
  return sides;
}

// Shared memory for the taps of any RoI.
size_t table_bytes(const RoiAlignCall& call) {
  const int bins = call.pooling.bins;
  const Sides sides = largest_sides(call.pyramid);
  return sizeof(Tap) * (2 * bins + taps_capacity(sides.height, bins) + taps_capacity(sides.width, bins));
}

bool too_large(const RoiAlignCall& call) {
  return table_bytes(call) > kSharedBytes || map_size(call.pyramid, 0) / call.pyramid.channels > 0x7fffffff;
}

// Channels per load and store. TensorFlow aligns tensors to 64 bytes.
int vector_width(const RoiAlignCall& call) {
  return access_width(call.dtype, call.pyramid.channels, {});
}

Grid pooling_grid(const RoiAlignCall& call, int width) {
  const int64_t items = int64_t(call.pooling.bins) * call.pooling.bins * (call.pyramid.channels / width);
  return {call.count, blocks(items, FRCNN_THREADS * kItemsPerThread)};
}

Maps maps_of(const RoiAlignCall& call, const void* const* levels) {
  Maps maps = {};
  for (int level = 0; level < call.pyramid.levels; ++level) maps.level[level] = const_cast<void*>(levels[level]);
  return maps;
}

// Places the lists in `workspace`; returns their end.
char* lay_out(const RoiAlignCall& call, char* workspace, RoiLists* lists) {
  char* end = workspace;
  auto place = [&end](auto** buffer, int64_t count) {
    *buffer = reinterpret_cast<std::remove_pointer_t<decltype(buffer)>>(end);
    end += (count * int64_t(sizeof(**buffer)) + 255) / 256 * 256;
  };
  const int64_t groups = int64_t(call.pyramid.levels) * call.pyramid.batch;
  place(&lists->rois, call.count);
  place(&lists->members, groups * call.count);
  place(&lists->sizes, groups);
  return end;
}

}  // namespace

const char* launch_roi_align(const RoiAlignCall& call, const void* const* features, void* pooled, void* stream) {
  if (call.count == 0 || call.pyramid.channels == 0) return nullptr;
  if (too_large(call)) return kTooLarge;
  return Kernel<RoiAlignKernel>{kernel_name("frcnn_roi_align_", call.dtype, vector_width(call))}.launch(
      pooling_grid(call, vector_width(call)), FRCNN_THREADS, table_bytes(call), stream, call.pyramid, call.pooling,
      call.boxes, call.box_image, maps_of(call, features), pooled);
}

int64_t roi_align_gradient_workspace_bytes(const RoiAlignCall& call) {
  RoiLists lists;
  return lay_out(call, nullptr, &lists) - static_cast<char*>(nullptr);
}

const char* launch_roi_align_gradient(const RoiAlignCall& call, const void* upstream, void* const* gradients,
                                      void* workspace, void* stream) {
  if (call.pyramid.batch == 0 || call.pyramid.channels == 0) return nullptr;
  if (too_large(call)) return kTooLarge;
  const int width = vector_width(call), bins = call.pooling.bins;
  // A multiple of 16 bytes, because nvcc reads four words at once, also where fewer are used.
  const size_t flags = (sizeof(uint32_t) * FRCNN_THREADS / kFlags + 15) / 16 * 16;
  const size_t shared = kRoisAtOnce * (sizeof(float) * bins * kTileWeights + sizeof(BinRange) * kTileRanges) +
                        sizeof(int) * FRCNN_THREADS + flags;
  if (shared > kSharedBytes) return "roi_align's output_size is too large for the GPU kernels (limit: 61)";
  RoiLists lists;
  lay_out(call, static_cast<char*>(workspace), &lists);
  const char* error = Kernel<ListKernel>{"frcnn_list_rois"}.launch(
      {int64_t(call.pyramid.levels) * call.pyramid.batch}, FRCNN_THREADS, flags, stream, call.pyramid, call.pooling,
      call.boxes, call.box_image, call.count, lists);
  if (error != nullptr) return error;
  int64_t tiles = 0;
  for (int level = 0; level < call.pyramid.levels; ++level)
    tiles += int64_t(call.pyramid.batch) * tiles_down(call.pyramid, level) * tiles_across(call.pyramid, level);
  return Kernel<GatherKernel>{kernel_name("frcnn_gather_", call.dtype, width)}.launch(
      {tiles, blocks(call.pyramid.channels / width, FRCNN_THREADS / kTileColumns)}, FRCNN_THREADS, shared, stream,
      call.pyramid, bins, call.count, lists, upstream, maps_of(call, gradients));
}

}  // namespace frcnn
