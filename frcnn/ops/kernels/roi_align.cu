// RoIAlign on a GPU. Neighboring threads process neighboring channels, so that the accesses of a warp coalesce.
#include "cuda_launch.h"
#include "device.h"

namespace frcnn {

struct Maps {
  void* level[kMaxLevels];
};

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
    const Axis& axis = rows ? roi.y : roi.x;
    const int bin = rows ? t : t - bins;
    const int offset = 2 * bins + (rows ? 0 : taps_capacity(roi.y.extent, bins)) + taps_offset(axis, bin, bins);
    ranges[t].offset = offset;
    ranges[t].count = merge_taps(axis, bin, table + offset);
  }
}

// Grid: RoIs x blocks of their [P, P, C / kWidth] results.
template <class T, int kWidth>
__global__ void pool_kernel(Pyramid pyramid, Pooling pooling, const float* boxes, const int32_t* box_image,
                            Maps features, T* pooled) {
  FRCNN_SHARED(Tap, table);
  const int64_t n = blockIdx.x;
  const RoI roi = locate(pyramid, pooling, boxes + 4 * n, box_image[n]);
  const int bins = pooling.bins, packets = pyramid.channels / kWidth;
  if (roi.level >= 0) write_taps(roi, bins, table);
  __syncthreads();

  const int item = blockIdx.y * blockDim.x + threadIdx.x;
  if (item >= bins * bins * packets) return;
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

// Gradient of pool_kernel with atomic additions. Grid as above; sums are float32 and have to be zeroed.
template <class T, int kWidth>
__global__ void scatter_kernel(Pyramid pyramid, Pooling pooling, const float* boxes, const int32_t* box_image,
                               const T* upstream, Maps sums) {
  FRCNN_SHARED(Tap, table);
  const int64_t n = blockIdx.x;
  const RoI roi = locate(pyramid, pooling, boxes + 4 * n, box_image[n]);
  if (roi.level < 0) return;
  const int bins = pooling.bins, packets = pyramid.channels / kWidth;
  write_taps(roi, bins, table);
  __syncthreads();

  const int item = blockIdx.y * blockDim.x + threadIdx.x;
  if (item >= bins * bins * packets) return;
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
      float* pixel = map + (int64_t(y.pixel) * roi.x.extent + x.pixel) * pyramid.channels;
      for (int v = 0; v < kWidth; ++v) {
        FRCNN_COUNT_BYTES(2 * sizeof(float));
        atomicAdd(pixel + v, y.weight * x.weight * to_float(packet.value[v]));
      }
    }
  }
}

template <class T>
__global__ void round_kernel(const float* sums, int64_t size, T* gradient) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < size) write<T, 1>(sums + i, gradient + i);
}

// Pixels of a row per block.
constexpr int kStrip = 8;

FRCNN_HD int strips(int width) {
  return (width + kStrip - 1) / kStrip;
}

// The deterministic gradient. Grid: strips of pixels of all rows, images and levels x blocks of channels. A block
// tests all RoIs, FRCNN_THREADS at a time, and adds those that overlap its strip in order.
template <class T, int kWidth>
__global__ void gather_kernel(Pyramid pyramid, Pooling pooling, const float* boxes, const int32_t* box_image,
                              int64_t count, const T* upstream, Maps gradients) {
  FRCNN_SHARED(float, shared);
  const int bins = pooling.bins;
  float* row_weights = shared;                                            // [bins]
  float* column_weights = row_weights + bins;                             // [bins][kStrip]
  int* reaches = reinterpret_cast<int*>(column_weights + bins * kStrip);  // [blockDim.x]

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
    bool reach = false;
    if (tested < count) {
      const RoI roi = locate(pyramid, pooling, boxes + 4 * tested, box_image[tested]);
      reach = roi.level == level && roi.image == image && may_overlap(roi.y, bins, y, y) &&
              may_overlap(roi.x, bins, first, first + kStrip - 1);
    }
    reaches[threadIdx.x] = reach;
    __syncthreads();
    for (int i = 0; i < int(blockDim.x); ++i) {
      if (!reaches[i]) continue;
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
    const int64_t place = (int64_t(row) * width + first + pixel) * pyramid.channels + channel;
    write<T, kWidth>(sums, static_cast<T*>(gradients.level[level]) + place);
  }
}

#if !defined(__CUDACC_RTC__)
namespace {

int64_t map_size(const Pyramid& pyramid, int level) {
  return int64_t(pyramid.batch) * pyramid.height[level] * pyramid.width[level] * pyramid.channels;
}

size_t table_bytes(const PoolingCall& call) {
  int height = 0, width = 0;
  for (int level = 0; level < call.pyramid.levels; ++level) {
    height = call.pyramid.height[level] > height ? call.pyramid.height[level] : height;
    width = call.pyramid.width[level] > width ? call.pyramid.width[level] : width;
  }
  const int bins = call.pooling.bins;
  return sizeof(Tap) * (2 * bins + taps_capacity(height, bins) + taps_capacity(width, bins));
}

constexpr size_t kSharedBytes = 48 * 1024;  // available on every GPU without opt-in

dim3 pooling_grid(const PoolingCall& call, int width) {
  const int items = call.pooling.bins * call.pooling.bins * (call.pyramid.channels / width);
  return dim3(unsigned(call.count), (items + FRCNN_THREADS - 1) / FRCNN_THREADS);
}

template <class T, int kWidth>
const char* pool(const PoolingCall& call, const void* const* features, T* pooled, void* stream) {
  Maps maps = {};
  for (int level = 0; level < call.pyramid.levels; ++level) maps.level[level] = const_cast<void*>(features[level]);
  const auto kernel = &pool_kernel<T, kWidth>;
  FRCNN_LAUNCH(kernel, pooling_grid(call, kWidth), FRCNN_THREADS, table_bytes(call), stream, call.pyramid, call.pooling,
               call.boxes, call.box_image, maps, pooled);
  return launch_error();
}

template <class T, int kWidth>
const char* gather(const PoolingCall& call, const T* upstream, const Maps& gradients, void* stream) {
  int64_t blocks = 0;
  for (int level = 0; level < call.pyramid.levels; ++level)
    blocks += int64_t(call.pyramid.batch) * call.pyramid.height[level] * strips(call.pyramid.width[level]);
  const int lanes = FRCNN_THREADS / kStrip, packets = call.pyramid.channels / kWidth;
  const size_t shared = sizeof(float) * call.pooling.bins * (1 + kStrip) + sizeof(int) * FRCNN_THREADS;
  const auto kernel = &gather_kernel<T, kWidth>;
  FRCNN_LAUNCH(kernel, dim3(unsigned(blocks), (packets + lanes - 1) / lanes), FRCNN_THREADS, shared, stream,
               call.pyramid, call.pooling, call.boxes, call.box_image, call.count, upstream, gradients);
  return launch_error();
}

template <class T, int kWidth>
const char* scatter(const PoolingCall& call, const T* upstream, const Maps& gradients, float* sums, void* stream) {
  Maps targets = gradients;
  for (int level = 0; level < call.pyramid.levels; ++level) {
    if (sums != nullptr) {
      targets.level[level] = sums;
      sums += map_size(call.pyramid, level);
    }
    cudaMemsetAsync(targets.level[level], 0, map_size(call.pyramid, level) * sizeof(float),
                    static_cast<cudaStream_t>(stream));
  }
  if (call.count > 0) {
    const auto kernel = &scatter_kernel<T, kWidth>;
    FRCNN_LAUNCH(kernel, pooling_grid(call, kWidth), FRCNN_THREADS, table_bytes(call), stream, call.pyramid,
                 call.pooling, call.boxes, call.box_image, upstream, targets);
  }
  if (sums != nullptr) {
    for (int level = 0; level < call.pyramid.levels; ++level) {
      const int64_t size = map_size(call.pyramid, level);
      const auto kernel = &round_kernel<T>;
      FRCNN_LAUNCH(kernel, unsigned((size + FRCNN_THREADS - 1) / FRCNN_THREADS), FRCNN_THREADS, 0, stream,
                   static_cast<const float*>(targets.level[level]), size, static_cast<T*>(gradients.level[level]));
    }
  }
  return launch_error();
}

template <class T>
const char* pool_any(const PoolingCall& call, const void* const* features, void* pooled, void* stream) {
  T* to = static_cast<T*>(pooled);
  return call.pyramid.channels % 4 == 0 ? pool<T, 4>(call, features, to, stream)
                                        : pool<T, 1>(call, features, to, stream);
}

template <class T>
const char* gradient_any(const PoolingCall& call, const void* upstream, const Maps& gradients, float* sums,
                         bool deterministic, void* stream) {
  const T* from = static_cast<const T*>(upstream);
  const bool wide = call.pyramid.channels % 4 == 0;
  if (deterministic)
    return wide ? gather<T, 4>(call, from, gradients, stream) : gather<T, 1>(call, from, gradients, stream);
  return wide ? scatter<T, 4>(call, from, gradients, sums, stream) : scatter<T, 1>(call, from, gradients, sums, stream);
}

bool too_large(const PoolingCall& call) {
  return table_bytes(call) > kSharedBytes || call.count > 0x7fffffff ||
         map_size(call.pyramid, 0) / call.pyramid.channels > 0x7fffffff;
}
constexpr const char* kTooLarge =
    "the feature maps are too large for the GPU kernels (limit: about 2900 pixels per side)";

}  // namespace

const char* launch_roi_align(const PoolingCall& call, const void* const* features, void* pooled, void* stream) {
  if (call.count == 0 || call.pyramid.channels == 0) return nullptr;
  if (too_large(call)) return kTooLarge;
  if (call.dtype == DType::kFloat32) return pool_any<float>(call, features, pooled, stream);
  if (call.dtype == DType::kBFloat16) return pool_any<BFloat16>(call, features, pooled, stream);
  return pool_any<Float16>(call, features, pooled, stream);
}

int64_t roi_align_gradient_sums(const PoolingCall& call, bool deterministic) {
  int64_t places = 0;
  if (!deterministic && call.dtype != DType::kFloat32)
    for (int level = 0; level < call.pyramid.levels; ++level) places += map_size(call.pyramid, level);
  return places;
}

const char* launch_roi_align_gradient(const PoolingCall& call, const void* upstream, void* const* gradients,
                                      float* sums, bool deterministic, void* stream) {
  if (call.pyramid.batch == 0 || call.pyramid.channels == 0) return nullptr;
  if (too_large(call)) return kTooLarge;
  Maps maps = {};
  for (int level = 0; level < call.pyramid.levels; ++level) maps.level[level] = gradients[level];
  if (call.dtype == DType::kFloat32) return gradient_any<float>(call, upstream, maps, nullptr, deterministic, stream);
  if (call.dtype == DType::kBFloat16) return gradient_any<BFloat16>(call, upstream, maps, sums, deterministic, stream);
  return gradient_any<Float16>(call, upstream, maps, sums, deterministic, stream);
}
#endif

}  // namespace frcnn
