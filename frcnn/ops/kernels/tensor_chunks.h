// Chunks of several tensors, which the threads of a CPU divide among themselves.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu.h"

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

  // Calls body(chunk, tensor, begin, end) for all chunks, on a thread pool: elements `begin` to `end` of a tensor.
  template <class Tensor, class Body>
  void run(const Tensor* tensors, const ParallelFor& parallel, const Body& body) const {
    parallel(count(), 1, [&](int64_t first, int64_t last) {
      for (int64_t chunk = first; chunk < last; ++chunk) {
        const int64_t index = std::upper_bound(begins_.begin(), begins_.end(), chunk) - begins_.begin() - 1;
        const int64_t begin = (chunk - begins_[index]) * kSize;
        body(chunk, tensors[index], begin, std::min(begin + kSize, tensors[index].size));
      }
    });
  }

 private:
  std::vector<int64_t> begins_;
};

}  // namespace frcnn
