// Non-maximum suppression of a batch on a GPU, in memory proportional to the candidates.
//
// Candidates are sorted by rank (the number of candidates before them) and processed in tiles: all candidates of a tile
// are compared in parallel with the boxes kept before the tile and with each other, then one block per image reduces
// the tile in order.
#include "cuda_kernels.h"
#include "device.h"
#include "nms.h"

namespace frcnn {

__device__ __forceinline__ bool suppresses(const Candidate& better, const Candidate& worse, float threshold) {
  if (better.group != worse.group) return false;
  const auto overlap =
      intersect<float>(better.x1, better.y1, better.x2, better.y2, area(better.x1, better.y1, better.x2, better.y2),  //
                       worse.x1, worse.y1, worse.x2, worse.y2, area(worse.x1, worse.y1, worse.x2, worse.y2));
  return overlap.intersection / overlap.union_area > threshold;
}

// Grid: candidates x images.
__device__ __forceinline__ void collect(const NmsCall& call, const NmsBuffers& buffers) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x, b = blockIdx.y;
  if (i >= call.candidates) return;
  const float score = call.scores[int64_t(b) * call.candidates + i];
  if (is_candidate(score))
    buffers.keys[int64_t(b) * call.candidates + atomicAdd(buffers.found + b, 1)] = order_key(score, i);
}

// Grid: candidates x images. Keys are unique, so the rank of a key is the number of smaller ones.
__device__ __forceinline__ void rank_candidates(const NmsCall& call, const NmsBuffers& buffers) {
  FRCNN_SHARED(uint64_t, cached);
  const int b = blockIdx.y, found = buffers.found[b];
  if (int(blockIdx.x * blockDim.x) >= found) return;
  const uint64_t* keys = buffers.keys + int64_t(b) * call.candidates;
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const uint64_t key = i < found ? keys[i] : 0;
  int rank = 0;
  for (int first = 0; first < found; first += blockDim.x) {
    const int size = found - first < int(blockDim.x) ? found - first : int(blockDim.x);
    if (int(threadIdx.x) < size) cached[threadIdx.x] = keys[first + threadIdx.x];
    __syncthreads();
    for (int j = 0; j < size; ++j) rank += cached[j] < key;
    __syncthreads();
  }
  if (i >= found) return;
  const int index = int(uint32_t(key));
  const int64_t place = int64_t(b) * call.candidates + index;
  const float* box = call.boxes + 4 * place;
  buffers.ranked[int64_t(b) * call.candidates + rank] = {box[0], box[1], box[2], box[3], call.groups[place], index};
}

// Whether the image has candidates left in the tile from `first` on, and outputs to fill.
__device__ __forceinline__ bool is_open(const NmsCall& call, const NmsBuffers& buffers, int b, int first) {
  return first < buffers.found[b] && call.counts[b] < call.max_outputs;
}

// Compares a word of the tile with the boxes kept in earlier tiles.
__device__ __forceinline__ void compare_with_kept(const NmsCall& call, const NmsBuffers& buffers, int first) {
  FRCNN_SHARED(Candidate, cached);
  int* flags = reinterpret_cast<int*>(cached + kWord);
  const int b = blockIdx.z, i = first + blockIdx.x * kWord + threadIdx.x;
  if (!is_open(call, buffers, b, first)) return;
  Candidate mine = {};
  if (i < buffers.found[b]) mine = buffers.ranked[int64_t(b) * call.candidates + i];
  const Candidate* kept = buffers.kept + int64_t(b) * call.max_outputs;
  bool suppressed = false;
  for (int base = 0; base < call.counts[b]; base += kWord) {
    const int size = call.counts[b] - base < kWord ? call.counts[b] - base : kWord;
    if (int(threadIdx.x) < size) cached[threadIdx.x] = kept[base + threadIdx.x];
    __syncthreads();
    for (int j = 0; j < size && !suppressed; ++j) suppressed = suppresses(cached[j], mine, call.iou_threshold);
    __syncthreads();
  }
  flags[threadIdx.x] = suppressed;
  __syncthreads();
  if (threadIdx.x == 0) {
    uint64_t word = 0;
    for (int j = 0; j < kWord; ++j) word |= uint64_t(flags[j] != 0) << j;
    buffers.suppressed[int64_t(b) * kTileWords + blockIdx.x] = word;
  }
}

// Compares a word of the tile with kWord earlier candidates, a row of the mask per thread.
__device__ __forceinline__ void compute_mask(const NmsCall& call, const NmsBuffers& buffers, int first) {
  FRCNN_SHARED(Candidate, cached);
  const int b = blockIdx.z, row = blockIdx.y * kWord + threadIdx.x, column = blockIdx.x * kWord;
  if (blockIdx.x < blockIdx.y || !is_open(call, buffers, b, first)) return;
  const int size = buffers.found[b] - first;
  const Candidate* tile = buffers.ranked + int64_t(b) * call.candidates + first;
  if (column + int(threadIdx.x) < size) cached[threadIdx.x] = tile[column + threadIdx.x];
  __syncthreads();
  if (row >= size) return;
  const Candidate mine = tile[row];
  uint64_t word = 0;
  for (int j = 0; j < kWord && column + j < size; ++j)
    if (suppresses(mine, cached[j], call.iou_threshold)) word |= uint64_t{1} << j;
  buffers.mask[(int64_t(b) * kTile + row) * kTileWords + blockIdx.x] = word;
}

// Grid: images; kWord threads. Goes through the tile by words: one thread reduces the word, all
// threads apply it to the later words. Two barriers a word: what a thread writes after the second is read after the
// next word's first at the earliest.
__device__ __forceinline__ void reduce_tile(const NmsCall& call, const NmsBuffers& buffers, int first) {
  FRCNN_SHARED(TileState, state);
  const int b = blockIdx.x, t = threadIdx.x;
  if (!is_open(call, buffers, b, first)) return;
  const int left = buffers.found[b] - first, size = left < kTile ? left : kTile, words = (size + kWord - 1) / kWord;
  const uint64_t* mask = buffers.mask + int64_t(b) * kTile * kTileWords;
  const Candidate* tile = buffers.ranked + int64_t(b) * call.candidates + first;
  int outputs = call.counts[b];
  for (int word = t; word < words; word += kWord)
    state->removed[word] = buffers.suppressed[int64_t(b) * kTileWords + word];
  for (int word = 0; word < words && outputs < call.max_outputs; ++word) {
    const int row = word * kWord + t;
    state->rows[t] = row < size ? mask[int64_t(row) * kTileWords + word] : 0;
    __syncthreads();
    if (t == 0) {
      uint64_t removed = state->removed[word], keep = 0;
      for (int r = 0, capacity = call.max_outputs - outputs; r < kWord && word * kWord + r < size && capacity > 0;
           ++r) {
        if (removed >> r & 1) continue;
        keep |= uint64_t{1} << r;
        removed |= state->rows[r];
        --capacity;
      }
      state->keep = keep;
    }
    __syncthreads();
    const uint64_t keep = state->keep;
    for (int later = word + 1 + t; later < words; later += kWord) {
      uint64_t removed = state->removed[later];
      for (int r = 0; r < kWord; ++r)
        if (keep >> r & 1) removed |= mask[int64_t(word * kWord + r) * kTileWords + later];
      state->removed[later] = removed;
    }
    if (keep >> t & 1) {
      const int64_t place = int64_t(b) * call.max_outputs + outputs + __popcll(keep & ((uint64_t{1} << t) - 1));
      buffers.kept[place] = tile[row];
      call.indices[place] = tile[row].index;
    }
    outputs += __popcll(keep);
  }
  if (t == 0) call.counts[b] = outputs;
}

}  // namespace frcnn

using namespace frcnn;

extern "C" __global__ void frcnn_nms_collect(FRCNN_PARAMETER NmsCall call, FRCNN_PARAMETER NmsBuffers buffers) {
  collect(call, buffers);
}
FRCNN_KERNEL(NmsKernel, frcnn_nms_collect);

extern "C" __global__ void frcnn_nms_rank(FRCNN_PARAMETER NmsCall call, FRCNN_PARAMETER NmsBuffers buffers) {
  rank_candidates(call, buffers);
}
FRCNN_KERNEL(NmsKernel, frcnn_nms_rank);

// Grid: words of the tile x (rows of kWord candidates, and one for the boxes kept earlier) x images; kWord threads.
extern "C" __global__ void frcnn_nms_compare(FRCNN_PARAMETER NmsCall call, FRCNN_PARAMETER NmsBuffers buffers,
                                             int first) {
  if (blockIdx.y + 1 == gridDim.y)
    compare_with_kept(call, buffers, first);
  else
    compute_mask(call, buffers, first);
}
FRCNN_KERNEL(NmsTileKernel, frcnn_nms_compare);

extern "C" __global__ void frcnn_nms_reduce(FRCNN_PARAMETER NmsCall call, FRCNN_PARAMETER NmsBuffers buffers,
                                            int first) {
  reduce_tile(call, buffers, first);
}
FRCNN_KERNEL(NmsTileKernel, frcnn_nms_reduce);
