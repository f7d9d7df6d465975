// Fills the tables of launches that process several tensors.
#pragma once

#include "cuda_driver.h"
#include "cuda_kernels.h"

namespace frcnn {

// Blocks that a tensor of this size takes.
inline int64_t table_blocks(int64_t size) {
  return blocks(size, kTableChunk);
}

// Calls launch(table, number of blocks) for tables of up to kTableSize of the tensors; returns the first error.
template <class Tensor, class Launch>
const char* launch_tables(const Tensor* tensors, int64_t count, const Launch& launch) {
  for (int64_t begin = 0; begin < count; begin += kTableSize) {
    TensorTable<Tensor> table = {};
    for (int64_t i = 0; i < kTableSize; ++i) {
      if (begin + i < count) table.tensor[i] = tensors[begin + i];
      table.first_block[i + 1] = table.first_block[i] + int32_t(table_blocks(table.tensor[i].size));
    }
    const int64_t grid = table.first_block[kTableSize];
    const char* error = grid > 0 ? launch(table, grid) : nullptr;
    if (error != nullptr) return error;
  }
  return nullptr;
}

}  // namespace frcnn
