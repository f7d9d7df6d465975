// Signatures, arguments and launch constants of the GPU kernels, shared by the device code (*.cu) and the host code
// that launches it (*_cuda.cc).
#pragma once

#include "bias_relu.h"
#include "channel_scale.h"
#include "group_norm.h"
#include "roi_align.h"
#include "update.h"

#ifndef FRCNN_THREADS  // per block; the tests use fewer
#define FRCNN_THREADS 256
#endif
#ifndef FRCNN_NMS_TILE  // candidates; the tests use fewer
#define FRCNN_NMS_TILE 4096
#endif
#ifndef FRCNN_MAX_BLOCKS  // of the elementwise kernels, about two waves of a large GPU; the tests use fewer
#define FRCNN_MAX_BLOCKS 2048
#endif

namespace frcnn {

// RoIAlign

// Feature maps or gradients of all levels, [B, Hl, Wl, C] each.
struct Maps {
  void* level[kMaxLevels];
};

constexpr int kVectorBytes = 16;    // loaded and stored at once if the number of channels allows
constexpr int kItemsPerThread = 4;  // results of a thread, so that a RoI is located by few blocks

// Bins that have a weight in a pixel, along one axis.
struct BinRange {
  uint16_t first, count;
};

// Pixels of a tile, which a block of the gradient computes, and the RoIs whose weights it holds at once.
constexpr int kTileRows = 4, kTileColumns = 8, kTileWeights = kTileRows + kTileColumns, kRoisAtOnce = 16;
constexpr int kTileRanges = 1 + kTileColumns;  // of bins: of all rows, of each column
constexpr int kLoads = 2;                      // from the upstream gradient at once
constexpr int kFlags = 32;                     // in a word
// Blocks of it that a multiprocessor holds at least, which limits registers: with three, sm_80 would spill.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr int kGatherBlocks = 3;
#else
constexpr int kGatherBlocks = 2;
#endif

FRCNN_HD int tiles_across(const Pyramid& pyramid, int level) {
  return (pyramid.width[level] + kTileColumns - 1) / kTileColumns;
}
FRCNN_HD int tiles_down(const Pyramid& pyramid, int level) {
  return (pyramid.height[level] + kTileRows - 1) / kTileRows;
}

// The RoIs of each level and image, which is group level * batch + image.
struct RoiLists {
  RoI* rois;         // [N], in the order of the boxes; those without a level are not written
  int32_t* members;  // [groups, N] indices of the boxes, ascending
  int32_t* sizes;    // [groups]
};

using RoiAlignKernel = void(Pyramid, Pooling, const float* boxes, const int32_t* box_image, Maps features,
                            void* pooled);
using ListKernel = void(Pyramid, Pooling, const float* boxes, const int32_t* box_image, int64_t count, RoiLists lists);
using GatherKernel = void(Pyramid, int bins, int64_t count, RoiLists lists, const void* upstream, Maps gradients);

// NMS

struct NmsCall {
  int batch, candidates, max_outputs;
  float iou_threshold;
  const float *boxes, *scores;  // [B, N, 4], [B, N]
  const int32_t* groups;        // [B, N]
  int32_t *indices, *counts;    // [B, max_outputs], [B]
};

struct Candidate {
  float x1, y1, x2, y2;
  int32_t group, index;
};

constexpr int kWord = 64;              // candidates of a mask word, and threads of the block that computes it
constexpr int kTile = FRCNN_NMS_TILE;  // candidates
constexpr int kTileWords = kTile / kWord;

struct NmsBuffers {
  uint64_t* keys;        // [B, N], in any order
  int* found;            // [B] candidates of each image
  Candidate* ranked;     // [B, N], best first
  Candidate* kept;       // [B, max_outputs]
  uint64_t* suppressed;  // [B, kTileWords] candidates of the tile that an earlier tile's box suppresses
  uint64_t* mask;        // [B, kTile, kTileWords] for each candidate of the tile, the later ones that it suppresses
};

// Shared memory of the kernel that reduces a tile.
struct TileState {
  uint64_t removed[kTileWords], rows[kWord], keep;
};

using NmsKernel = void(NmsCall, NmsBuffers);
using NmsTileKernel = void(NmsCall, NmsBuffers, int first);

// Bias and ReLU

constexpr int kPacketsInFlight = 2;  // loaded by a thread before it stores the first; more take too many registers

using BiasReluKernel = void(BiasReluCall);
using BiasReluGradientKernel = void(BiasReluGradientCall);

// Group norm

struct GroupNormPlan {
  int batch, pixels, channels, groups;
  int chunks, chunk_pixels;  // parts of an image, one per block
  int groups_per_block;      // of the kernels that add up the chunks
  bool relu;
};

constexpr int kChunkPixelsPerThread = 4;  // at least
constexpr int kMaxChunks = 512;           // per image: enough to fill a GPU with one image, and few to add up
constexpr int kPacketsAtOnce = 2;         // loads of a thread that do not wait for its stores
constexpr int kAffineChannels = 8;        // of a block that computes the gradients of gamma and beta

// partial: [batch, chunks, 2, channels], two sums per channel; terms: [batch, groups, 2], slope and offset.
using NormMomentsKernel = void(GroupNormPlan, const void* inputs, float* partial);
using NormStatisticsKernel = void(GroupNormPlan, float epsilon, const void* inputs, const float* partial, float* mean,
                                  float* rstd);
using NormApplyKernel = void(GroupNormPlan, const void* inputs, const float* gamma, const float* beta,
                             const float* mean, const float* rstd, void* outputs);
using NormGradientSumsKernel = void(GroupNormPlan, const void* upstream, const void* inputs, const float* gamma,
                                    const float* beta, const float* mean, const float* rstd, float* partial);
using NormTotalsKernel = void(GroupNormPlan, const float* partial, const float* gamma, const float* mean,
                              const float* rstd, float* terms, float* gamma_gradient, float* beta_gradient);
using NormGradientKernel = void(GroupNormPlan, const void* upstream, const void* inputs, const float* gamma,
                                const float* beta, const float* mean, const float* rstd, const float* terms,
                                void* gradient);

// Several tensors in one launch

constexpr int kTableSize = 48;                   // tensors of a launch: its parameters have at most 4 KiB
constexpr int kTableChunk = FRCNN_THREADS * 64;  // elements of a block

template <class Tensor>
struct TensorTable {
  Tensor tensor[kTableSize];
  int32_t first_block[kTableSize + 1];  // of each tensor, and one past the last
};

using UpdateTable = TensorTable<Updated>;
using NormTable = TensorTable<Normed>;
using ChannelScaleTable = TensorTable<ChannelScaled>;

using UpdateKernel = void(UpdateTable, UpdateConstants, const UpdateScalars* scalars);
using SumsOfSquaresKernel = void(NormTable, double* sums);
using RootOfSumKernel = void(int64_t count, const double* sums, float* root);
using ChannelScaleKernel = void(ChannelScaleTable);

}  // namespace frcnn
