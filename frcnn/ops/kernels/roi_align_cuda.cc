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

// Shared memory for the weights of any RoI's pixels and their bins: less than that for taps.
size_t pixel_weights_bytes(const RoiAlignCall& call) {
  const int bins = call.pooling.bins;
  const Sides sides = largest_sides(call.pyramid);
  return sizeof(float) * (taps_capacity(sides.height, bins) + taps_capacity(sides.width, bins)) +
         sizeof(BinRange) * (sides.height + sides.width);
}

bool too_large(const RoiAlignCall& call) {
  return table_bytes(call) > kSharedBytes || map_size(call.pyramid, 0) / call.pyramid.channels > 0x7fffffff;
}

// Channels per load and store: `width`, if it divides them.
int width_or_one(const RoiAlignCall& call, int width) {
  return call.pyramid.channels % width == 0 ? width : 1;
}

int vector_width(const RoiAlignCall& call) {
  return width_or_one(call, packet_width(call.dtype));
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

// Bytes of a level's float32 sums; a multiple of 16, as the kernels that read them need.
int64_t sums_bytes(const RoiAlignCall& call, int level) {
  return (map_size(call.pyramid, level) + 3) / 4 * 4 * int64_t(sizeof(float));
}

const char* launch_gather(const RoiAlignCall& call, const void* upstream, const Maps& gradients, char* workspace,
                          void* stream) {
  const int width = vector_width(call), bins = call.pooling.bins;
  // A multiple of 16 bytes, because nvcc reads four words at once, also where fewer are used.
  const size_t flags = (sizeof(uint32_t) * FRCNN_THREADS / kFlags + 15) / 16 * 16;
  const size_t shared = kRoisAtOnce * (sizeof(float) * bins * kTileWeights + sizeof(BinRange) * kTileRanges) +
                        sizeof(int) * FRCNN_THREADS + flags;
  if (shared > kSharedBytes) return "roi_align's output_size is too large for the GPU kernels (limit: 61)";
  RoiLists lists;
  lay_out(call, workspace, &lists);
  const char* error = Kernel<ListKernel>{"frcnn_list_rois"}.launch(
      {int64_t(call.pyramid.levels) * call.pyramid.batch}, FRCNN_THREADS, flags, stream, call.pyramid, call.pooling,
      call.boxes, call.box_image, call.count, lists);
  if (error != nullptr) return error;
  int64_t tiles = 0;
  for (int level = 0; level < call.pyramid.levels; ++level)
    tiles += int64_t(call.pyramid.batch) * tiles_down(call.pyramid, level) * tiles_across(call.pyramid, level);
  return Kernel<GatherKernel>{kernel_name("frcnn_gather_", call.dtype, width)}.launch(
      {tiles, blocks(call.pyramid.channels / width, FRCNN_THREADS / kTileColumns)}, FRCNN_THREADS, shared, stream,
      call.pyramid, bins, call.count, lists, upstream, gradients);
}

const char* launch_scatter(const RoiAlignCall& call, const void* upstream, const Maps& gradients, char* workspace,
                           void* stream) {
  const bool in_place = call.dtype == DType::kFloat32;
  Maps targets = gradients;
  for (int level = 0; level < call.pyramid.levels; ++level) {
    if (!in_place) {
      targets.level[level] = workspace;
      workspace += sums_bytes(call, level);
    }
    const size_t bytes = map_size(call.pyramid, level) * sizeof(float);
    if (const char* error = set_bytes(targets.level[level], 0, bytes, stream)) return error;
  }
  if (call.count > 0) {
    const int width = width_or_one(call, kReductionWidth);
    const char* error = Kernel<ScatterKernel>{kernel_name("frcnn_scatter_", call.dtype, width)}.launch(
        pooling_grid(call, width), FRCNN_THREADS, pixel_weights_bytes(call), stream, call.pyramid, call.pooling,
        call.boxes, call.box_image, upstream, targets);
    if (error != nullptr) return error;
  }
  for (int level = 0; !in_place && level < call.pyramid.levels; ++level) {
    const int64_t size = map_size(call.pyramid, level);
    const char* error = Kernel<RoundKernel>{"frcnn_round_" + dtype_name(call.dtype)}.launch(
        {blocks(size, FRCNN_THREADS * kReductionWidth)}, FRCNN_THREADS, 0, stream,
        static_cast<const float*>(targets.level[level]), size, gradients.level[level]);
    if (error != nullptr) return error;
  }
  return nullptr;
}

}  // namespace

const char* launch_roi_align(const RoiAlignCall& call, const void* const* features, void* pooled, void* stream) {
  if (call.count == 0 || call.pyramid.channels == 0) return nullptr;
  if (too_large(call)) return kTooLarge;
  return Kernel<RoiAlignKernel>{kernel_name("frcnn_roi_align_", call.dtype, vector_width(call))}.launch(
      pooling_grid(call, vector_width(call)), FRCNN_THREADS, table_bytes(call), stream, call.pyramid, call.pooling,
      call.boxes, call.box_image, maps_of(call, features), pooled);
}

int64_t roi_align_gradient_workspace_bytes(const RoiAlignCall& call, bool deterministic) {
  if (deterministic) {
    RoiLists lists;
    return lay_out(call, nullptr, &lists) - static_cast<char*>(nullptr);
  }
  int64_t bytes = 0;
  for (int level = 0; call.dtype != DType::kFloat32 && level < call.pyramid.levels; ++level)
    bytes += sums_bytes(call, level);
  return bytes;
}

const char* launch_roi_align_gradient(const RoiAlignCall& call, const void* upstream, void* const* gradients,
                                      void* workspace, bool deterministic, void* stream) {
  if (call.pyramid.batch == 0 || call.pyramid.channels == 0) return nullptr;
  if (too_large(call)) return kTooLarge;
  const Maps maps = maps_of(call, gradients);
  char* memory = static_cast<char*>(workspace);
  return deterministic ? launch_gather(call, upstream, maps, memory, stream)
                       : launch_scatter(call, upstream, maps, memory, stream);
}

}  // namespace frcnn
