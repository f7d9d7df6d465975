// TensorFlow's CPU device for the kernels: its threads and its memory.
#pragma once

#include <sys/mman.h>

#include "cpu.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace frcnn {

// The device's thread pool as a ParallelFor.
inline ParallelFor device_threads(tensorflow::OpKernelContext* context) {
  tensorflow::thread::ThreadPool* pool = context->device()->tensorflow_cpu_worker_threads()->workers;
  return [pool](int64_t count, int64_t block, const Body& body) {
    using Scheduling = tensorflow::thread::ThreadPool::SchedulingParams;
    const Scheduling fixed(tensorflow::thread::ThreadPool::SchedulingStrategy::kFixedBlockSize, absl::nullopt, block);
    if (count > 0) pool->ParallelFor(count, fixed, body);
  };
}

// Newly mapped memory costs a page fault for every 4 KiB written, so request huge pages for large outputs. Only a hint:
// failure is ignored.
inline void advise_huge_pages(const tensorflow::Tensor& tensor) {
  constexpr size_t kHugePage = size_t{2} << 20;
  const size_t bytes = tensor.TotalBytes();
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(tensor.data()) + kHugePage - 1) & ~(kHugePage - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(tensor.data()) + bytes) & ~(kHugePage - 1);
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

}  // namespace frcnn
