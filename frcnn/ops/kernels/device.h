// CUDA dependencies of the .cu files in one place: the tests compile them for the host against tests/ops/shim instead.
#pragma once

#include "dtype.h"

#if !defined(FRCNN_SHIM)
#if !defined(__CUDACC_RTC__)
#include <cuda_runtime.h>
#endif
#define FRCNN_SHARED(T, name)                                   \
  extern __shared__ __align__(16) unsigned char frcnn_shared[]; \
  T* const name = reinterpret_cast<T*>(frcnn_shared)
#define FRCNN_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
#define FRCNN_COUNT_BYTES(bytes)
#endif

#ifndef FRCNN_THREADS  // per block; the tests use fewer
#define FRCNN_THREADS 256
#endif

namespace frcnn {

// kWidth neighboring channels, loaded and stored at once.
template <class T, int kWidth>
struct alignas(sizeof(T) * kWidth) Packet {
  T value[kWidth];
};

template <class T, int kWidth>
__device__ __forceinline__ Packet<T, kWidth> read(const T* from) {
  FRCNN_COUNT_BYTES(sizeof(T) * kWidth);
  return *reinterpret_cast<const Packet<T, kWidth>*>(from);
}

template <class T, int kWidth>
__device__ __forceinline__ void write(const float* sums, T* to) {
  FRCNN_COUNT_BYTES(sizeof(T) * kWidth);
  Packet<T, kWidth> packet;
  for (int v = 0; v < kWidth; ++v) from_float(sums[v], &packet.value[v]);
  *reinterpret_cast<Packet<T, kWidth>*>(to) = packet;
}

// CUDA's error message of the launches so far, or nullptr.
#if !defined(__CUDACC_RTC__)
inline const char* launch_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
#endif

}  // namespace frcnn
