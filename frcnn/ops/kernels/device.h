// CUDA dependencies of the .cu files in one place: the tests compile them for the host against tests/ops/shim instead.
#pragma once

#include "dtype.h"

#if !defined(FRCNN_SHIM)
#define FRCNN_SHARED(T, name)                                   \
  extern __shared__ __align__(16) unsigned char frcnn_shared[]; \
  T* const name = reinterpret_cast<T*>(frcnn_shared)
#define FRCNN_COUNT_BYTES(bytes)
// A parameter that stays in constant memory: without it, an array that is indexed at run time is copied to each
// thread's local memory, and the compiler no longer knows that the pointers in it are global ones.
#define FRCNN_PARAMETER const __grid_constant__
// The host looks kernels up by name, so the compiler cannot check its arguments: both sides use the same signature.
#define FRCNN_KERNEL(signature, name) \
  static_assert(frcnn::Same<decltype(name), signature>::value, "the kernel does not have the signature of its launch")
#endif

namespace frcnn {

template <class A, class B>
struct Same {
  static constexpr bool value = false;
};
template <class A>
struct Same<A, A> {
  static constexpr bool value = true;
};

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
__device__ __forceinline__ void write(const Packet<T, kWidth>& packet, T* to) {
  FRCNN_COUNT_BYTES(sizeof(T) * kWidth);
  *reinterpret_cast<Packet<T, kWidth>*>(to) = packet;
}

template <class T, int kWidth>
__device__ __forceinline__ void write(const float* sums, T* to) {
  Packet<T, kWidth> packet;
  for (int v = 0; v < kWidth; ++v) from_float(sums[v], &packet.value[v]);
  write(packet, to);
}

}  // namespace frcnn
