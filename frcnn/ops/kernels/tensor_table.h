// Several tensors in one launch: each block has a chunk of one of them.
#pragma once

#include "cuda_kernels.h"

namespace frcnn {

// The chunk of this block: its tensor, and its elements from `begin` to `end`.
struct ChunkRange {
  int tensor;
  int64_t begin, end;
};

template <class Table>
__device__ __forceinline__ ChunkRange chunk_of_block(const Table& table) {
  int tensor = 0;
  while (int64_t(blockIdx.x) >= table.first_block[tensor + 1]) ++tensor;
  const int64_t begin = (int64_t(blockIdx.x) - table.first_block[tensor]) * kTableChunk;
  const int64_t size = table.tensor[tensor].size, end = begin + kTableChunk;
  return {tensor, begin, end < size ? end : size};
}

}  // namespace frcnn
