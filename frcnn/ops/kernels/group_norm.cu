// Group norm with an optional ReLU on a GPU, and its gradient. Each direction reads its inputs twice and writes its
// result once.
//
// A block sums a chunk of an image's pixels in float32; the chunks are added up in double precision in a fixed order.
// Chunks depend on the size of an image only, so results depend neither on scheduling nor on the rest of the batch.
#include "group_norm_device.h"

namespace frcnn {

// Sums of the differences from the pivot and of their squares, per channel of a chunk.
template <class T, int kWidth>
__device__ __forceinline__ void sum_moments(const GroupNormPlan& plan, const T* inputs, float* partial) {
  const Slice slice = slice_of<kWidth>(plan, blockIdx.x);
  float sums[2][kWidth] = {};
  if (slice.active) {
    int group[kWidth];
    float pivot[kWidth];
    find_groups<kWidth>(plan, slice, group);
    for (int v = 0; v < kWidth; ++v)
      pivot[v] = pivot_of(plan, inputs, slice.image, group[v] - slice.image * plan.groups);
#pragma unroll 4
    for (int pixel = slice.first; pixel < slice.end; pixel += slice.rows) {
      const Packet<T, kWidth> packet = read<T, kWidth>(inputs + offset_of(plan, slice, pixel));
      for (int v = 0; v < kWidth; ++v) {
        const float difference = to_float(packet.value[v]) - pivot[v];
        sums[0][v] += difference;
        sums[1][v] = fmaf(difference, difference, sums[1][v]);
      }
    }
  }
  write_partial(plan, slice, sums, partial);
}

// Grid: blocks of groups of all images.
template <class T>
__device__ __forceinline__ void compute_statistics(const GroupNormPlan& plan, float epsilon, const T* inputs,
                                                   const float* partial, float* mean, float* rstd) {
  const GroupRange range = range_of(plan, blockIdx.x);
  double sum = 0.0, square = 0.0;
  visit_members(plan, partial, range.image, range.first, range.count, [&](const double* sums, int) {
    sum += sums[0];
    square += sums[1];
  });
  if (int(threadIdx.x) >= range.count) return;
  const int group = range.first + threadIdx.x;
  const double elements = double(plan.pixels) * (plan.channels / plan.groups), average = sum / elements;
  const double variance = square / elements - average * average;
  mean[range.image * plan.groups + group] = float(pivot_of(plan, inputs, range.image, group) + average);
  rstd[range.image * plan.groups + group] = float(1.0 / sqrt((variance < 0.0 ? 0.0 : variance) + double(epsilon)));
}

// Visits chunks in reverse order: those read last by the sums are still in the L2 cache.
template <class T, int kWidth>
__device__ __forceinline__ void apply(const GroupNormPlan& plan, const T* inputs, const float* gamma, const float* beta,
                                      const float* mean, const float* rstd, T* outputs) {
  const Slice slice = slice_of<kWidth>(plan, gridDim.x - 1 - blockIdx.x);
  if (!slice.active) return;
  int group[kWidth];
  find_groups<kWidth>(plan, slice, group);
  const ChannelAffine<kWidth> affine(slice, group, gamma, beta, mean, rstd);
  for (int pixel = slice.first; pixel < slice.end; pixel += kPacketsAtOnce * slice.rows) {
    Packet<T, kWidth> packets[kPacketsAtOnce];
#pragma unroll
    for (int n = 0; n < kPacketsAtOnce; ++n)
      if (pixel + n * slice.rows < slice.end)
        packets[n] = read<T, kWidth>(inputs + offset_of(plan, slice, pixel + n * slice.rows));
#pragma unroll
    for (int n = 0; n < kPacketsAtOnce; ++n) {
      if (pixel + n * slice.rows >= slice.end) continue;
      float values[kWidth];
      for (int v = 0; v < kWidth; ++v) {
        values[v] = affine(v, to_float(packets[n].value[v]));
        if (plan.relu && values[v] < 0.0f) values[v] = 0.0f;  // NaN stays NaN
      }
      write<T, kWidth>(values, outputs + offset_of(plan, slice, pixel + n * slice.rows));
    }
  }
}

// Sums of the gradient behind the ReLU, and of its product with the normalized inputs, per channel of a chunk.
template <class T, int kWidth>
__device__ __forceinline__ void sum_gradients(const GroupNormPlan& plan, const T* upstream, const T* inputs,
                                              const float* gamma, const float* beta, const float* mean,
                                              const float* rstd, float* partial) {
  const Slice slice = slice_of<kWidth>(plan, blockIdx.x);
  float sums[2][kWidth] = {};
  if (slice.active) {
    int group[kWidth];
    find_groups<kWidth>(plan, slice, group);
    const ChannelAffine<kWidth> affine(slice, group, gamma, beta, mean, rstd);
    float center[kWidth];
    for (int v = 0; v < kWidth; ++v) center[v] = mean[group[v]];
#pragma unroll 2
    for (int pixel = slice.first; pixel < slice.end; pixel += slice.rows) {
      const Packet<T, kWidth> gradients = read<T, kWidth>(upstream + offset_of(plan, slice, pixel));
      const Packet<T, kWidth> packet = read<T, kWidth>(inputs + offset_of(plan, slice, pixel));
      for (int v = 0; v < kWidth; ++v) {
        const float value = to_float(packet.value[v]);
        const float behind = !plan.relu || affine(v, value) > 0.0f ? to_float(gradients.value[v]) : 0.0f;
        sums[0][v] += behind;
        sums[1][v] = fmaf(behind, value - center[v], sums[1][v]);
      }
    }
    for (int v = 0; v < kWidth; ++v) sums[1][v] *= rstd[group[v]];
  }
  write_partial(plan, slice, sums, partial);
}

// Grid: blocks of groups of all images, which compute the terms of the inputs' gradient, then blocks of channels, which
// compute the gradients of gamma and beta.
__device__ __forceinline__ void compute_totals(const GroupNormPlan& plan, const float* partial, const float* gamma,
                                               const float* mean, const float* rstd, float* terms,
                                               float* gamma_gradient, float* beta_gradient) {
  const int of_groups = plan.batch * group_blocks(plan);
  if (int(blockIdx.x) >= of_groups) {
    FRCNN_SHARED(double, sums);
    const int first = (blockIdx.x - of_groups) * kAffineChannels, left = plan.channels - first;
    const int width = left < kAffineChannels ? left : kAffineChannels;
    add_parts(partial, plan.batch * plan.chunks, plan.channels, first, width, sums);
    if (int(threadIdx.x) >= width) return;
    beta_gradient[first + threadIdx.x] = float(sums[2 * threadIdx.x]);
    gamma_gradient[first + threadIdx.x] = float(sums[2 * threadIdx.x + 1]);
    return;
  }
  const GroupRange range = range_of(plan, blockIdx.x);
  double sum = 0.0, product = 0.0;
  visit_members(plan, partial, range.image, range.first, range.count, [&](const double* sums, int channel) {
    sum += gamma[channel] * sums[0];
    product += gamma[channel] * sums[1];
  });
  if (int(threadIdx.x) >= range.count) return;
  const int group = range.image * plan.groups + range.first + threadIdx.x;
  const double elements = double(plan.pixels) * (plan.channels / plan.groups);
  terms[2 * group] = float(norm_slope(rstd[group], product / elements));
  terms[2 * group + 1] = float(norm_offset(mean[group], rstd[group], sum / elements, product / elements));
}

// In reverse order, as apply.
template <class T, int kWidth>
__device__ __forceinline__ void write_gradient(const GroupNormPlan& plan, const T* upstream, const T* inputs,
                                               const float* gamma, const float* beta, const float* mean,
                                               const float* rstd, const float* terms, T* gradient) {
  const Slice slice = slice_of<kWidth>(plan, gridDim.x - 1 - blockIdx.x);
  if (!slice.active) return;
  int group[kWidth];
  find_groups<kWidth>(plan, slice, group);
  const ChannelAffine<kWidth> affine(slice, group, gamma, beta, mean, rstd);
  float slope[kWidth], offset[kWidth];
  for (int v = 0; v < kWidth; ++v) slope[v] = terms[2 * group[v]], offset[v] = terms[2 * group[v] + 1];
  for (int pixel = slice.first; pixel < slice.end; pixel += kPacketsAtOnce * slice.rows) {
    Packet<T, kWidth> gradients[kPacketsAtOnce], packets[kPacketsAtOnce];
#pragma unroll
    for (int n = 0; n < kPacketsAtOnce; ++n) {
      if (pixel + n * slice.rows >= slice.end) continue;
      const int64_t at = offset_of(plan, slice, pixel + n * slice.rows);
      gradients[n] = read<T, kWidth>(upstream + at);
      packets[n] = read<T, kWidth>(inputs + at);
    }
#pragma unroll
    for (int n = 0; n < kPacketsAtOnce; ++n) {
      if (pixel + n * slice.rows >= slice.end) continue;
      float values[kWidth];
      for (int v = 0; v < kWidth; ++v) {
        const float value = to_float(packets[n].value[v]);
        const float behind = !plan.relu || affine(v, value) > 0.0f ? to_float(gradients[n].value[v]) : 0.0f;
        values[v] = fmaf(affine.scale[v], behind, fmaf(slope[v], value, offset[v]));
      }
      write<T, kWidth>(values, gradient + offset_of(plan, slice, pixel + n * slice.rows));
    }
  }
}

}  // namespace frcnn

using namespace frcnn;

// The kernels of one dtype and width, as the host looks them up: frcnn_norm_moments_float32_x4, ...
#define FRCNN_GROUP_NORM_KERNELS(T, kWidth, suffix)                                                                    \
  extern "C" __global__ void frcnn_norm_moments_##suffix(FRCNN_PARAMETER GroupNormPlan plan, const void* inputs,       \
                                                         float* partial) {                                             \
    sum_moments<T, kWidth>(plan, static_cast<const T*>(inputs), partial);                                              \
  }                                                                                                                    \
  FRCNN_KERNEL(NormMomentsKernel, frcnn_norm_moments_##suffix);                                                        \
  extern "C" __global__ void frcnn_norm_apply_##suffix(FRCNN_PARAMETER GroupNormPlan plan, const void* inputs,         \
                                                       const float* gamma, const float* beta, const float* mean,       \
                                                       const float* rstd, void* outputs) {                             \
    apply<T, kWidth>(plan, static_cast<const T*>(inputs), gamma, beta, mean, rstd, static_cast<T*>(outputs));          \
  }                                                                                                                    \
  FRCNN_KERNEL(NormApplyKernel, frcnn_norm_apply_##suffix);                                                            \
  extern "C" __global__ void frcnn_norm_gradient_sums_##suffix(                                                        \
      FRCNN_PARAMETER GroupNormPlan plan, const void* upstream, const void* inputs, const float* gamma,                \
      const float* beta, const float* mean, const float* rstd, float* partial) {                                       \
    sum_gradients<T, kWidth>(plan, static_cast<const T*>(upstream), static_cast<const T*>(inputs), gamma, beta, mean,  \
                             rstd, partial);                                                                           \
  }                                                                                                                    \
  FRCNN_KERNEL(NormGradientSumsKernel, frcnn_norm_gradient_sums_##suffix);                                             \
  extern "C" __global__ void frcnn_norm_gradient_##suffix(                                                             \
      FRCNN_PARAMETER GroupNormPlan plan, const void* upstream, const void* inputs, const float* gamma,                \
      const float* beta, const float* mean, const float* rstd, const float* terms, void* gradient) {                   \
    write_gradient<T, kWidth>(plan, static_cast<const T*>(upstream), static_cast<const T*>(inputs), gamma, beta, mean, \
                              rstd, terms, static_cast<T*>(gradient));                                                 \
  }                                                                                                                    \
  FRCNN_KERNEL(NormGradientKernel, frcnn_norm_gradient_##suffix);

#define FRCNN_NORM_STATISTICS_KERNEL(T, suffix)                                                                    \
  extern "C" __global__ void frcnn_norm_statistics_##suffix(FRCNN_PARAMETER GroupNormPlan plan, float epsilon,     \
                                                            const void* inputs, const float* partial, float* mean, \
                                                            float* rstd) {                                         \
    compute_statistics(plan, epsilon, static_cast<const T*>(inputs), partial, mean, rstd);                         \
  }                                                                                                                \
  FRCNN_KERNEL(NormStatisticsKernel, frcnn_norm_statistics_##suffix);

FRCNN_GROUP_NORM_KERNELS(float, 1, float32_x1)
FRCNN_GROUP_NORM_KERNELS(float, 4, float32_x4)
FRCNN_GROUP_NORM_KERNELS(BFloat16, 1, bfloat16_x1)
FRCNN_GROUP_NORM_KERNELS(BFloat16, 8, bfloat16_x8)
FRCNN_GROUP_NORM_KERNELS(Float16, 1, float16_x1)
FRCNN_GROUP_NORM_KERNELS(Float16, 8, float16_x8)
FRCNN_NORM_STATISTICS_KERNEL(float, float32)
FRCNN_NORM_STATISTICS_KERNEL(BFloat16, bfloat16)
FRCNN_NORM_STATISTICS_KERNEL(Float16, float16)

extern "C" __global__ void frcnn_norm_totals(FRCNN_PARAMETER GroupNormPlan plan, const float* partial,
                                             const float* gamma, const float* mean, const float* rstd, float* terms,
                                             float* gamma_gradient, float* beta_gradient) {
  compute_totals(plan, partial, gamma, mean, rstd, terms, gamma_gradient, beta_gradient);
}
FRCNN_KERNEL(NormTotalsKernel, frcnn_norm_totals);
