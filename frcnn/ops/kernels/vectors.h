// Vectors of sixteen float32 as GCC vector extensions: AVX-512, AVX2 or SSE2 on x86-64, NEON on aarch64.
#pragma once

#include "dtype.h"

// One binary for every x86-64: the loader picks a function's clone. Architecture levels instead of CPU names, which
// match Intel CPUs only.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define FRCNN_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#elif defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FRCNN_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FRCNN_CLONES
#endif

namespace frcnn {

constexpr int kLanes = 16;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Mask __attribute__((vector_size(4 * kLanes)));  // result of a comparison: -1 or 0
typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));

template <class T>
FRCNN_HD Floats load(const T* from) {
  Halves bits;
  memcpy(&bits, from, sizeof(bits));
  return widen<Floats>(__builtin_convertvector(bits, Words), T{});
}

template <>
FRCNN_HD Floats load(const float* from) {
  Floats value;
  memcpy(&value, from, sizeof(value));
  return value;
}

template <class T>
FRCNN_HD void store(Floats value, T* to) {
  const Halves bits = __builtin_convertvector(narrow<Words>(value, T{}), Halves);
  memcpy(to, &bits, sizeof(bits));
}

template <>
FRCNN_HD void store(Floats value, float* to) {
  memcpy(to, &value, sizeof(value));
}

FRCNN_HD bool any(Mask mask) {
  uint64_t pairs[kLanes / 2], all = 0;
  memcpy(pairs, &mask, sizeof(pairs));
  for (uint64_t pair : pairs) all |= pair;
  return all != 0;
}

}  // namespace frcnn
