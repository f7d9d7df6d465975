// Chunks of several tensors, which the threads of a CPU divide among themselves.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace frcnn {

class TensorChunks {
 public:
  static constexpr int64_t kSize = 1 << 14;  // elements

  // Tensors: structures with a `size`.
  template <class Tensor>
  TensorChunks(const Tensor* tensors, int64_t count) : begins_{0} {
    for (int64_t i = 0; i < count; ++i) begins_.push_back(begins_.back() + (tensors[i].size + kSize - 1) / kSize);
  }

  int64_t count() const { return begins_.back(); }

  // The tensor of a chunk.
  int64_t tensor(int64_t chunk) const {
    return std::upper_bound(begins_.begin(), begins_.end(), chunk) - begins_.begin() - 1;
  }

  // The chunk's first element in its tensor.
  int64_t first(int64_t chunk, int64_t tensor) const { return (chunk - begins_[tensor]) * kSize; }

 private:
  std::vector<int64_t> begins_;
};

}  // namespace frcnn
