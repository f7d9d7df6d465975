// The gradient of RoIAlign on a GPU: one kernel lists the RoIs of each level and image, the other gathers for each
// pixel what they contribute, in the order of the boxes. Neighboring threads process neighboring channels, so that the
// accesses of a warp coalesce.
#include "cuda_kernels.h"
#include "device.h"

namespace frcnn {

// Number of the block's threads that have the flag set: all of them, and those before this one.
struct FlagCount {
  int before, all;
};

// With all threads of the block; words [blockDim.x / kFlags] are shared memory.
__device__ __forceinline__ FlagCount count_flags(bool flag, uint32_t* words) {
  const int own = threadIdx.x / kFlags, bit = threadIdx.x % kFlags;
  if (bit == 0) words[own] = 0;
  __syncthreads();
  if (flag) atomicOr(words + own, uint32_t{1} << bit);
  __syncthreads();
  FlagCount found = {0, 0};
  for (int word = 0; word < int(blockDim.x) / kFlags; ++word) {
    const uint32_t flags = words[word];
    found.all += __popc(flags);
    found.before += word < own ? __popc(flags) : word == own ? __popc(flags & ((uint32_t{1} << bit) - 1)) : 0;
  }
  __syncthreads();
  return found;
}

// Grid: groups. Every block tests all boxes, so that no block depends on the order of another.
__device__ __forceinline__ void list_rois(const Pyramid& pyramid, const Pooling& pooling, const float* boxes,
                                          const int32_t* box_image, int64_t count, const RoiLists& lists) {
  FRCNN_SHARED(uint32_t, words);
  const int level = blockIdx.x / pyramid.batch, image = blockIdx.x % pyramid.batch;
  int32_t* members = lists.members + blockIdx.x * count;
  int size = 0;
  for (int64_t base = 0; base < count; base += blockDim.x) {
    const int64_t n = base + threadIdx.x;
    bool member = false;
    if (n < count && box_image[n] == image) {
      const RoI roi = locate(pyramid, pooling, boxes + 4 * n, image);
      member = roi.level == level;
      if (member) lists.rois[n] = roi;
    }
    const FlagCount found = count_flags(member, words);
    if (member) members[size + found.before] = int32_t(n);
    size += found.all;
  }
  if (threadIdx.x == 0) lists.sizes[blockIdx.x] = size;
}

// Where a block of gather works. The coarsest level comes first: RoIs overlap most there, and the longest blocks should
// not be the last ones to start.
struct Tile {
  int level, image, top, left;
};

__device__ __forceinline__ Tile tile_of(const Pyramid& pyramid, int64_t block) {
  int level = pyramid.levels - 1;
  for (; block >= int64_t(pyramid.batch) * tiles_down(pyramid, level) * tiles_across(pyramid, level); --level)
    block -= int64_t(pyramid.batch) * tiles_down(pyramid, level) * tiles_across(pyramid, level);
  const int across = tiles_across(pyramid, level), down = tiles_down(pyramid, level), row = int(block) / across;
  return {level, row / down, row % down * kTileRows, int(block) % across * kTileColumns};
}

// Writes the bins of each RoI that have a weight in any of the tile's rows, and those of each of its columns, with all
// threads of the block; the caller has to synchronize. `weights` are [batch, bins, kTileWeights].
__device__ __forceinline__ void write_ranges(const float* weights, int batch, int bins, BinRange* ranges) {
  for (int t = threadIdx.x; t < batch * kTileRanges; t += blockDim.x) {
    const int column = t % kTileRanges - 1;
    const float* own = weights + t / kTileRanges * bins * kTileWeights;
    int first = 0, count = 0;
    for (int bin = 0; bin < bins; ++bin) {
      bool any = false;
      for (int i = 0; i < (column < 0 ? kTileRows : 1); ++i)
        any |= own[bin * kTileWeights + (column < 0 ? i : kTileRows + column)] != 0.0f;
      if (!any) continue;
      if (count == 0) first = bin;
      count = bin + 1 - first;
    }
    ranges[t] = {uint16_t(first), uint16_t(count)};
  }
}

// Adds what a RoI contributes to the pixels of a thread, which are those of a column of the tile. `weights` [bins,
// kTileWeights] and `ranges` [kTileRanges] are those of the RoI. kLoads packets are loaded before the first is used.
template <class T, int kWidth>
__device__ __forceinline__ void gather_roi(const float* weights, const BinRange* ranges, int column, int bins,
                                           int channels, const T* upstream, float (*sums)[kWidth]) {
  const BinRange rows = ranges[0], columns = ranges[1 + column];
  for (int q = columns.first; q < columns.first + columns.count; ++q) {
    const float column_weight = weights[q * kTileWeights + kTileRows + column];
    for (int first = rows.first; first < rows.first + rows.count; first += kLoads) {
      const int left = rows.first + rows.count - first;
      Packet<T, kWidth> packets[kLoads] = {};
      for (int i = 0; i < kLoads; ++i)
        if (i < left) packets[i] = read<T, kWidth>(upstream + ((first + i) * bins + q) * channels);
      for (int i = 0; i < kLoads; ++i) {
        if (i >= left) break;
        const auto at = *reinterpret_cast<const Packet<float, kTileRows>*>(weights + (first + i) * kTileWeights);
        for (int v = 0; v < kWidth; ++v) {
          const float value = column_weight * to_float(packets[i].value[v]);
          for (int r = 0; r < kTileRows; ++r) sums[r][v] = fmaf(at.value[r], value, sums[r][v]);
        }
      }
    }
  }
}

// Grid: tiles of all images and levels x blocks of channels. A block tests the RoIs of its
// level and image, one per thread at a time, and adds those that overlap its tile in the order of the boxes.
template <class T, int kWidth>
__device__ __forceinline__ void gather(const Pyramid& pyramid, int bins, int64_t count, const RoiLists& lists,
                                       const T* upstream, const Maps& gradients) {
  FRCNN_SHARED(float, weights);                                                       // of kRoisAtOnce RoIs
  int* chosen = reinterpret_cast<int*>(weights + kRoisAtOnce * bins * kTileWeights);  // [blockDim.x]
  BinRange* ranges = reinterpret_cast<BinRange*>(chosen + blockDim.x);                // of kRoisAtOnce RoIs
  uint32_t* words = reinterpret_cast<uint32_t*>(ranges + kRoisAtOnce * kTileRanges);  // [blockDim.x / kFlags]
  const Tile tile = tile_of(pyramid, blockIdx.x);
  const int group = tile.level * pyramid.batch + tile.image, size = lists.sizes[group];
  const int lanes = blockDim.x / kTileColumns, column = threadIdx.x / lanes, channels = pyramid.channels;
  const int channel = (blockIdx.y * lanes + threadIdx.x % lanes) * kWidth;
  const int height = pyramid.height[tile.level], width = pyramid.width[tile.level];
  const bool mine = tile.left + column < width && channel < channels;

  float sums[kTileRows][kWidth] = {};
  for (int base = 0; base < size; base += blockDim.x) {
    const int tested = base + threadIdx.x;
    int n = 0;
    bool overlap = false;
    if (tested < size) {
      n = lists.members[group * count + tested];
      overlap = may_overlap(lists.rois[n].y, bins, tile.top, tile.top + kTileRows - 1) &&
                may_overlap(lists.rois[n].x, bins, tile.left, tile.left + kTileColumns - 1);
    }
    const FlagCount found = count_flags(overlap, words);
    if (overlap) chosen[found.before] = n;
    __syncthreads();
    for (int first = 0; first < found.all; first += kRoisAtOnce) {
      const int batch = found.all - first < kRoisAtOnce ? found.all - first : kRoisAtOnce;
      for (int t = threadIdx.x; t < batch * bins * kTileWeights; t += blockDim.x) {
        const int place = t % kTileWeights, bin = t / kTileWeights % bins;
        const RoI& roi = lists.rois[chosen[first + t / kTileWeights / bins]];
        weights[t] = place < kTileRows ? weight_at(roi.y, bin, tile.top + place)
                                       : weight_at(roi.x, bin, tile.left + place - kTileRows);
      }
      __syncthreads();
      write_ranges(weights, batch, bins, ranges);
      __syncthreads();
      for (int i = 0; mine && i < batch; ++i) {
        const T* from = upstream + int64_t(chosen[first + i]) * bins * bins * channels + channel;
        gather_roi<T, kWidth>(weights + i * bins * kTileWeights, ranges + i * kTileRanges, column, bins, channels, from,
                              sums);
      }
      __syncthreads();
    }
  }
  T* gradient = static_cast<T*>(gradients.level[tile.level]);
  for (int r = 0; mine && r < kTileRows; ++r) {
    if (tile.top + r >= height) break;
    const int64_t pixel = (int64_t(tile.image) * height + tile.top + r) * width + tile.left + column;
    write<T, kWidth>(sums[r], gradient + pixel * channels + channel);
  }
}

}  // namespace frcnn

using namespace frcnn;

// The kernels as the host looks them up: frcnn_gather_float32_x4, ...
#define FRCNN_GATHER_KERNEL(T, kWidth, suffix)                                                                        \
  extern "C" __global__ void __launch_bounds__(FRCNN_THREADS, kGatherBlocks)                                          \
      frcnn_gather_##suffix(FRCNN_PARAMETER Pyramid pyramid, int bins, int64_t count, FRCNN_PARAMETER RoiLists lists, \
                            const void* upstream, FRCNN_PARAMETER Maps gradients) {                                   \
    gather<T, kWidth>(pyramid, bins, count, lists, static_cast<const T*>(upstream), gradients);                       \
  }                                                                                                                   \
  FRCNN_KERNEL(GatherKernel, frcnn_gather_##suffix);

FRCNN_GATHER_KERNEL(float, 1, float32_x1)
FRCNN_GATHER_KERNEL(float, 4, float32_x4)
FRCNN_GATHER_KERNEL(BFloat16, 1, bfloat16_x1)
FRCNN_GATHER_KERNEL(BFloat16, 8, bfloat16_x8)
FRCNN_GATHER_KERNEL(Float16, 1, float16_x1)
FRCNN_GATHER_KERNEL(Float16, 8, float16_x8)

extern "C" __global__ void frcnn_list_rois(FRCNN_PARAMETER Pyramid pyramid, FRCNN_PARAMETER Pooling pooling,
                                           const float* boxes, const int32_t* box_image, int64_t count,
                                           FRCNN_PARAMETER RoiLists lists) {
  list_rois(pyramid, pooling, boxes, box_image, count, lists);
}
FRCNN_KERNEL(ListKernel, frcnn_list_rois);
