// RoIAlign on a GPU. Neighboring threads process neighboring channels, so that the accesses of a warp coalesce.
#include "cuda_kernels.h"
#include "device.h"

namespace frcnn {

// The taps of a RoI in shared memory: a TapRange for each bin of each axis, then the taps of both axes.
struct TapRange {
  int offset, count;
};
static_assert(sizeof(TapRange) == sizeof(Tap), "ranges and taps share one array");

// Selected by value: a reference to one of two members would force the RoI into local memory.
__device__ __forceinline__ Axis select(bool first, const Axis& a, const Axis& b) {
  return {first ? a.start : b.start, first ? a.bin : b.bin, first ? a.extent : b.extent, first ? a.grid : b.grid};
}

// Writes the taps of a RoI with all threads of the block; the caller has to synchronize.
__device__ __forceinline__ void write_taps(const RoI& roi, int bins, Tap* table) {
  TapRange* ranges = reinterpret_cast<TapRange*>(table);
  for (int t = threadIdx.x; t < 2 * bins; t += blockDim.x) {
    const bool rows = t < bins;
    const Axis axis = select(rows, roi.y, roi.x);
    const int bin = rows ? t : t - bins;
    const int offset = 2 * bins + (rows ? 0 : taps_capacity(roi.y.extent, bins)) + taps_offset(axis, bin, bins);
    ranges[t].offset = offset;
    ranges[t].count = merge_taps(axis, bin, table + offset);
  }
}

// Grid: RoIs x blocks of their [P, P, C / kWidth] results.
template <class T, int kWidth>
__device__ __forceinline__ void pool(const Pyramid& pyramid, const Pooling& pooling, const float* boxes,
                                     const int32_t* box_image, const Maps& features, T* pooled) {
  FRCNN_SHARED(Tap, table);
  const int64_t n = blockIdx.x;
  const RoI roi = locate(pyramid, pooling, boxes + 4 * n, box_image[n]);
  const int bins = pooling.bins, packets = pyramid.channels / kWidth;
  if (roi.level >= 0) write_taps(roi, bins, table);
  __syncthreads();

  for (int item = blockIdx.y * blockDim.x + threadIdx.x; item < bins * bins * packets; item += gridDim.y * blockDim.x) {
    float sums[kWidth] = {};
    if (roi.level >= 0) {
      const int bin = item / packets;
      const TapRange* ranges = reinterpret_cast<const TapRange*>(table);
      const TapRange rows = ranges[bin / bins], columns = ranges[bins + bin % bins];
      const int64_t first = int64_t(roi.image) * roi.y.extent * roi.x.extent;
      const T* map =
          static_cast<const T*>(features.level[roi.level]) + first * pyramid.channels + (item % packets) * kWidth;
      for (int i = 0; i < rows.count; ++i) {
        const Tap y = table[rows.offset + i];
        for (int j = 0; j < columns.count; ++j) {
          const Tap x = table[columns.offset + j];
          const float weight = y.weight * x.weight;
          const Packet<T, kWidth> packet =
              read<T, kWidth>(map + (int64_t(y.pixel) * roi.x.extent + x.pixel) * pyramid.channels);
          for (int v = 0; v < kWidth; ++v) sums[v] = fmaf(weight, to_float(packet.value[v]), sums[v]);
        }
      }
    }
    write<T, kWidth>(sums, pooled + (n * bins * bins * packets + item) * kWidth);
  }
}

// The gradient of pool with atomic additions. Grid as above; sums are float32 and have to be zeroed.
template <class T, int kWidth>
__device__ __forceinline__ void scatter(const Pyramid& pyramid, const Pooling& pooling, const float* boxes,
                                        const int32_t* box_image, const T* upstream, const Maps& sums) {
  FRCNN_SHARED(Tap, table);
  const int64_t n = blockIdx.x;
  const RoI roi = locate(pyramid, pooling, boxes + 4 * n, box_image[n]);
  if (roi.level < 0) return;
  const int bins = pooling.bins, packets = pyramid.channels / kWidth;
  write_taps(roi, bins, table);
  __syncthreads();

  for (int item = blockIdx.y * blockDim.x + threadIdx.x; item < bins * bins * packets; item += gridDim.y * blockDim.x) {
    const int bin = item / packets;
    const TapRange* ranges = reinterpret_cast<const TapRange*>(table);
    const TapRange rows = ranges[bin / bins], columns = ranges[bins + bin % bins];
    const int64_t first = int64_t(roi.image) * roi.y.extent * roi.x.extent;
    float* map = static_cast<float*>(sums.level[roi.level]) + first * pyramid.channels + (item % packets) * kWidth;
    const Packet<T, kWidth> packet = read<T, kWidth>(upstream + (n * bins * bins * packets + item) * kWidth);
    for (int i = 0; i < rows.count; ++i) {
      const Tap y = table[rows.offset + i];
      for (int j = 0; j < columns.count; ++j) {
        const Tap x = table[columns.offset + j];
        const float weight = y.weight * x.weight;
        float values[kWidth];
        for (int v = 0; v < kWidth; ++v) values[v] = weight * to_float(packet.value[v]);
        add<kWidth>(values, map + (int64_t(y.pixel) * roi.x.extent + x.pixel) * pyramid.channels);
      }
    }
  }
}

template <class T>
__device__ __forceinline__ void round(const float* sums, int64_t size, T* gradient) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < size) write<T, 1>(sums + i, gradient + i);
}

// The deterministic gradient. Grid: strips of pixels of all rows, images and levels x blocks of channels. A block tests
// all RoIs, one per thread at a time, and adds those that overlap its strip in order.
template <class T, int kWidth>
__device__ __forceinline__ void gather(const Pyramid& pyramid, const Pooling& pooling, const float* boxes,
                                       const int32_t* box_image, int64_t count, const T* upstream,
                                       const Maps& gradients) {
  FRCNN_SHARED(float, shared);
  const int bins = pooling.bins;
  float* row_weights = shared;                                             // [bins]
  float* column_weights = row_weights + bins;                              // [bins][kStrip]
  int* overlaps = reinterpret_cast<int*>(column_weights + bins * kStrip);  // [blockDim.x]

  int level = 0, strip = blockIdx.x;
  for (; strip >= pyramid.batch * pyramid.height[level] * strips(pyramid.width[level]); ++level)
    strip -= pyramid.batch * pyramid.height[level] * strips(pyramid.width[level]);
  const int width = pyramid.width[level];
  const int first = strip % strips(width) * kStrip, row = strip / strips(width);
  const int image = row / pyramid.height[level], y = row % pyramid.height[level];

  const int lanes = blockDim.x / kStrip, pixel = threadIdx.x / lanes;
  const int channel = (blockIdx.y * lanes + threadIdx.x % lanes) * kWidth;
  const bool mine = first + pixel < width && channel < pyramid.channels;
  float sums[kWidth] = {};
  for (int64_t base = 0; base < count; base += blockDim.x) {
    const int64_t tested = base + threadIdx.x;
    bool overlap = false;
    if (tested < count) {
      const RoI roi = locate(pyramid, pooling, boxes + 4 * tested, box_image[tested]);
      overlap = roi.level == level && roi.image == image && may_overlap(roi.y, bins, y, y) &&
                may_overlap(roi.x, bins, first, first + kStrip - 1);
    }
    overlaps[threadIdx.x] = overlap;
    __syncthreads();
    for (int i = 0; i < int(blockDim.x); ++i) {
      if (!overlaps[i]) continue;
      const int64_t n = base + i;
      const RoI roi = locate(pyramid, pooling, boxes + 4 * n, box_image[n]);
      for (int t = threadIdx.x; t < bins * (1 + kStrip); t += blockDim.x)
        shared[t] =
            t < bins ? weight_at(roi.y, t, y) : weight_at(roi.x, (t - bins) / kStrip, first + (t - bins) % kStrip);
      __syncthreads();
      for (int p = 0; mine && p < bins; ++p) {
        if (row_weights[p] == 0.0f) continue;
        for (int q = 0; q < bins; ++q) {
          const float weight = row_weights[p] * column_weights[q * kStrip + pixel];
          if (weight == 0.0f) continue;
          const Packet<T, kWidth> packet =
              read<T, kWidth>(upstream + ((n * bins + p) * bins + q) * pyramid.channels + channel);
          for (int v = 0; v < kWidth; ++v) sums[v] = fmaf(weight, to_float(packet.value[v]), sums[v]);
        }
      }
      __syncthreads();
    }
    __syncthreads();
  }
  if (mine) {
    const int64_t offset = (int64_t(row) * width + first + pixel) * pyramid.channels + channel;
    write<T, kWidth>(sums, static_cast<T*>(gradients.level[level]) + offset);
  }
}

}  // namespace frcnn

using namespace frcnn;

// The kernels of one dtype and width, as the host looks them up: frcnn_roi_align_float32_x4, ...
#define FRCNN_ROI_ALIGN_KERNELS(T, kWidth, suffix)                                                                    \
  extern "C" __global__ void frcnn_roi_align_##suffix(                                                                \
      FRCNN_PARAMETER Pyramid pyramid, FRCNN_PARAMETER Pooling pooling, const float* boxes, const int32_t* box_image, \
      FRCNN_PARAMETER Maps features, void* pooled) {                                                                  \
    pool<T, kWidth>(pyramid, pooling, boxes, box_image, features, static_cast<T*>(pooled));                           \
  }                                                                                                                   \
  FRCNN_KERNEL(RoiAlignKernel, frcnn_roi_align_##suffix);                                                             \
  extern "C" __global__ void frcnn_scatter_##suffix(FRCNN_PARAMETER Pyramid pyramid, FRCNN_PARAMETER Pooling pooling, \
                                                    const float* boxes, const int32_t* box_image,                     \
                                                    const void* upstream, FRCNN_PARAMETER Maps sums) {                \
    scatter<T, kWidth>(pyramid, pooling, boxes, box_image, static_cast<const T*>(upstream), sums);                    \
  }                                                                                                                   \
  FRCNN_KERNEL(ScatterKernel, frcnn_scatter_##suffix);                                                                \
  extern "C" __global__ void frcnn_gather_##suffix(FRCNN_PARAMETER Pyramid pyramid, FRCNN_PARAMETER Pooling pooling,  \
                                                   const float* boxes, const int32_t* box_image, int64_t count,       \
                                                   const void* upstream, FRCNN_PARAMETER Maps gradients) {            \
    gather<T, kWidth>(pyramid, pooling, boxes, box_image, count, static_cast<const T*>(upstream), gradients);         \
  }                                                                                                                   \
  FRCNN_KERNEL(GatherKernel, frcnn_gather_##suffix);

#define FRCNN_ROUND_KERNEL(T, suffix)                                                                \
  extern "C" __global__ void frcnn_round_##suffix(const float* sums, int64_t size, void* gradient) { \
    round(sums, size, static_cast<T*>(gradient));                                                    \
  }                                                                                                  \
  FRCNN_KERNEL(RoundKernel, frcnn_round_##suffix);

FRCNN_ROI_ALIGN_KERNELS(float, 1, float32_x1)
FRCNN_ROI_ALIGN_KERNELS(float, 4, float32_x4)
FRCNN_ROI_ALIGN_KERNELS(BFloat16, 1, bfloat16_x1)
FRCNN_ROI_ALIGN_KERNELS(BFloat16, 8, bfloat16_x8)
FRCNN_ROI_ALIGN_KERNELS(Float16, 1, float16_x1)
FRCNN_ROI_ALIGN_KERNELS(Float16, 8, float16_x8)
FRCNN_ROUND_KERNEL(BFloat16, bfloat16)
FRCNN_ROUND_KERNEL(Float16, float16)
