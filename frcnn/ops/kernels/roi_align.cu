// RoIAlign on a GPU. Neighboring threads process neighboring channels, so that the accesses of a warp coalesce.
#include "cuda_kernels.h"
#include "device.h"

namespace frcnn {

// The taps of a RoI in shared memory: a TapRange for each bin of each axis, then the taps of both axes.
struct TapRange {
  int offset, count;
};
static_assert(sizeof(TapRange) == sizeof(Tap), "ranges and taps share one array");

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

}  // namespace frcnn

using namespace frcnn;

// The kernel of one dtype and width, as the host looks it up: frcnn_roi_align_float32_x4, ...
#define FRCNN_ROI_ALIGN_KERNEL(T, kWidth, suffix)                                                                     \
  extern "C" __global__ void frcnn_roi_align_##suffix(                                                                \
      FRCNN_PARAMETER Pyramid pyramid, FRCNN_PARAMETER Pooling pooling, const float* boxes, const int32_t* box_image, \
      FRCNN_PARAMETER Maps features, void* pooled) {                                                                  \
    pool<T, kWidth>(pyramid, pooling, boxes, box_image, features, static_cast<T*>(pooled));                           \
  }                                                                                                                   \
  FRCNN_KERNEL(RoiAlignKernel, frcnn_roi_align_##suffix);

FRCNN_ROI_ALIGN_KERNEL(float, 1, float32_x1)
FRCNN_ROI_ALIGN_KERNEL(float, 4, float32_x4)
FRCNN_ROI_ALIGN_KERNEL(BFloat16, 1, bfloat16_x1)
FRCNN_ROI_ALIGN_KERNEL(BFloat16, 8, bfloat16_x8)
FRCNN_ROI_ALIGN_KERNEL(Float16, 1, float16_x1)
FRCNN_ROI_ALIGN_KERNEL(Float16, 8, float16_x8)
