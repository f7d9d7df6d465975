// Device memory, and arrays of standard input, for the calls in main.cc and many_tensors.h.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cuda_launch.h"
#include "driver_memory.h"

namespace frcnn {

inline void check(CUresult result) {
  if (result != 0) fprintf(stderr, "CUDA error %d\n", int(result)), exit(6);
}

template <class T>
std::vector<T> read_array(int64_t count) {
  std::vector<T> values(count);
  if (count > 0 && fread(values.data(), sizeof(T), count, stdin) != size_t(count)) exit(4);
  return values;
}

// Device memory.
class Buffer {
 public:
  explicit Buffer(size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    check(cuMemAlloc_v2(&memory_, bytes));
    if (getenv("FRCNN_RAW") == nullptr) check(cuMemsetD8_v2(memory_, 0xff, bytes));
  }
  Buffer(Buffer&& other) : bytes_(other.bytes_), memory_(other.memory_) { other.memory_ = 0; }
  ~Buffer() {
    if (memory_ != 0) cuMemFree_v2(memory_);
  }

  static Buffer from_stdin(size_t bytes) {
    const auto values = read_array<char>(int64_t(bytes));
    Buffer buffer(bytes);
    if (bytes > 0) check(cuMemcpyHtoD_v2(buffer.memory_, values.data(), bytes));
    return buffer;
  }

  template <class T = void>
  T* data() const {
    return reinterpret_cast<T*>(memory_);
  }

  void print() const {
    if (bytes_ == 0) return;
    std::vector<char> values(bytes_);
    check(cuMemcpyDtoH_v2(values.data(), memory_, bytes_));
    fwrite(values.data(), 1, bytes_, stdout);
  }

 private:
  size_t bytes_;
  CUdeviceptr memory_ = 0;
};

inline int64_t bytes_of(DType dtype) {
  return dtype == DType::kFloat32 ? 4 : 2;
}

}  // namespace frcnn
