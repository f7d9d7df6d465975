// What the kernels of group_norm.cu share: the part of a thread, the map of a channel, sums over pixels and chunks.
#pragma once

#include "cuda_kernels.h"
#include "device.h"

namespace frcnn {

// What a thread processes: kWidth channels of every `rows`-th pixel of a chunk.
struct Slice {
  int image, chunk;
  int lanes, rows;          // of the block: packets of kWidth channels, and pixels that it processes at a time
  int lane, row;            // of the thread
  int channel, first, end;  // channels from `channel` on; pixels from `first` on
  bool active;              // whether the thread processes anything
};

// Grid: chunks of all images x blocks of channels.
template <int kWidth>
__device__ __forceinline__ Slice slice_of(const GroupNormPlan& plan, int block) {
  Slice slice;
  const int packets = plan.channels / kWidth;
  slice.image = block / plan.chunks, slice.chunk = block % plan.chunks;
  slice.lanes = packets < int(blockDim.x) ? packets : int(blockDim.x);
  slice.rows = blockDim.x / slice.lanes;
  slice.lane = threadIdx.x % slice.lanes, slice.row = threadIdx.x / slice.lanes;
  slice.channel = (blockIdx.y * slice.lanes + slice.lane) * kWidth;
  const int begin = slice.chunk * plan.chunk_pixels, left = plan.pixels - begin;
  slice.first = begin + slice.row;
  slice.end = begin + (left < plan.chunk_pixels ? left : plan.chunk_pixels);
  slice.active = slice.row < slice.rows && slice.channel < plan.channels;
  return slice;
}

// Offset of the slice's channels at a pixel.
__device__ __forceinline__ int64_t offset_of(const GroupNormPlan& plan, const Slice& slice, int pixel) {
  return (int64_t(slice.image) * plan.pixels + pixel) * plan.channels + slice.channel;
}

// The groups of the slice's channels, as indices into [batch, groups].
template <int kWidth>
__device__ __forceinline__ void find_groups(const GroupNormPlan& plan, const Slice& slice, int* group) {
  const int members = plan.channels / plan.groups;
  int current = slice.image * plan.groups + slice.channel / members, member = slice.channel % members;
  for (int v = 0; v < kWidth; ++v) {
    group[v] = current;
    if (++member == members) member = 0, ++current;
  }
}

// Values of the slice's channels, four at a time if the inputs are.
template <int kWidth>
__device__ __forceinline__ void load_channels(const float* from, float* to) {
  constexpr int kAtOnce = kWidth % 4 == 0 ? 4 : 1;
  for (int v = 0; v < kWidth; v += kAtOnce) {
    const auto packet = *reinterpret_cast<const Packet<float, kAtOnce>*>(from + v);
    for (int i = 0; i < kAtOnce; ++i) to[v + i] = packet.value[i];
  }
}

// The affine map of the slice's channels.
template <int kWidth>
struct ChannelAffine {
  float scale[kWidth], shift[kWidth];

  __device__ __forceinline__ ChannelAffine(const Slice& slice, const int* group, const float* gamma, const float* beta,
                                           const float* mean, const float* rstd) {
    load_channels<kWidth>(gamma + slice.channel, scale);
    load_channels<kWidth>(beta + slice.channel, shift);
    for (int v = 0; v < kWidth; ++v) {
      scale[v] = norm_scale(scale[v], rstd[group[v]]);
      shift[v] = norm_shift(shift[v], mean[group[v]], scale[v]);
    }
  }
  // The same expression in both directions: the gradient recomputes which outputs are positive.
  __device__ __forceinline__ float operator()(int v, float input) const { return fmaf(scale[v], input, shift[v]); }
};

// The element that a group's sums of differences start from: sums of squares of values far from zero would lose the
// variance.
template <class T>
__device__ __forceinline__ float pivot_of(const GroupNormPlan& plan, const T* inputs, int image, int group) {
  const int members = plan.channels / plan.groups;
  return to_float(inputs[int64_t(image) * plan.pixels * plan.channels + int64_t(group) * members]);
}

// Adds up values [rows][columns] in shared memory into the first row, in pairs. Synchronizes before and after.
template <class Value>
__device__ __forceinline__ void add_rows(Value* values, int rows, int columns) {
  __syncthreads();
  for (int left = rows; left > 1;) {
    const int half = (left + 1) / 2;
    for (int i = threadIdx.x; i < (left - half) * columns; i += blockDim.x) values[i] += values[half * columns + i];
    left = half;
    __syncthreads();
  }
}

// Adds up the two sums per channel of the block's threads, and writes them to `partial`.
template <int kWidth>
__device__ __forceinline__ void write_partial(const GroupNormPlan& plan, const Slice& slice,
                                              const float (&sums)[2][kWidth], float* partial) {
  FRCNN_SHARED(float, shared);
  const int lanes = slice.lanes;
  if (slice.row < slice.rows)
    for (int which = 0; which < 2; ++which)
      for (int v = 0; v < kWidth; ++v)  // neighboring threads write to different banks
        shared[((2 * slice.row + which) * kWidth + v) * lanes + slice.lane] = sums[which][v];
  add_rows(shared, slice.rows, 2 * kWidth * lanes);
  float* target = partial + (int64_t(slice.image) * plan.chunks + slice.chunk) * 2 * plan.channels;
  for (int i = threadIdx.x; i < 2 * kWidth * lanes; i += blockDim.x) {
    const int sum = i / lanes, channel = (blockIdx.y * lanes + i % lanes) * kWidth + sum % kWidth;
    if (channel < plan.channels) target[int64_t(sum / kWidth) * plan.channels + channel] = shared[i];
  }
}

// Adds up the parts [parts][2][channels] of `width` channels: afterwards sums[2 * i] and sums[2 * i + 1] are those of
// the i-th. `width` is at most the number of threads.
__device__ __forceinline__ void add_parts(const float* parts, int count, int channels, int first, int width,
                                          double* sums) {
  const int rows = blockDim.x / width, row = threadIdx.x / width, column = threadIdx.x % width;
  if (row < rows) {
    double one = 0.0, other = 0.0;
    for (int part = row; part < count; part += rows) {
      const float* from = parts + int64_t(part) * 2 * channels + first + column;
      one += from[0];
      other += from[channels];
    }
    sums[2 * (row * width + column)] = one;
    sums[2 * (row * width + column) + 1] = other;
  }
  add_rows(sums, rows, 2 * width);
}

// Adds up the chunks of some groups of an image: visit(member's sums, channel) in order, in the group's own thread.
template <class Visit>
__device__ __forceinline__ void visit_members(const GroupNormPlan& plan, const float* partial, int image, int group,
                                              int groups, Visit&& visit) {
  FRCNN_SHARED(double, sums);
  const int members = plan.channels / plan.groups, channels = groups * members;
  const float* parts = partial + int64_t(image) * plan.chunks * 2 * plan.channels;
  // A group with more channels than the block has threads is visited in several steps; its block has no other group.
  for (int first = 0; first < channels; first += blockDim.x) {
    const int width = channels - first < int(blockDim.x) ? channels - first : int(blockDim.x);
    add_parts(parts, plan.chunks, plan.channels, group * members + first, width, sums);
    const int begin = threadIdx.x * members, end = begin + members < width ? begin + members : width;
    if (int(threadIdx.x) < groups)
      for (int i = begin; i < end; ++i) visit(sums + 2 * i, group * members + first + i);
    __syncthreads();
  }
}

// Groups of an image that a block adds up.
struct GroupRange {
  int image, first, count;
};

__device__ __forceinline__ int group_blocks(const GroupNormPlan& plan) {
  return (plan.groups + plan.groups_per_block - 1) / plan.groups_per_block;
}

__device__ __forceinline__ GroupRange range_of(const GroupNormPlan& plan, int block) {
  const int blocks = group_blocks(plan), first = block % blocks * plan.groups_per_block, left = plan.groups - first;
  return {block / blocks, first, left < plan.groups_per_block ? left : plan.groups_per_block};
}

}  // namespace frcnn
