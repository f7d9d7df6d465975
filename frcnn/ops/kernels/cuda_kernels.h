// Signatures, arguments and launch constants of the GPU kernels, shared by the device code (*.cu) and the host code
// that launches it (*_cuda.cc).
#pragma once

#include "bias_relu.h"
#include "roi_align.h"

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
constexpr int kStrip = 8;           // pixels of a row per block of the deterministic gradient

FRCNN_HD int strips(int width) {
  return (width + kStrip - 1) / kStrip;
}

using RoiAlignKernel = void(Pyramid, Pooling, const float* boxes, const int32_t* box_image, Maps features,
                            void* pooled);
using ScatterKernel = void(Pyramid, Pooling, const float* boxes, const int32_t* box_image, const void* upstream,
                           Maps sums);
using GatherKernel = void(Pyramid, Pooling, const float* boxes, const int32_t* box_image, int64_t count,
                          const void* upstream, Maps gradients);
using RoundKernel = void(const float* sums, int64_t size, void* gradient);

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

}  // namespace frcnn
