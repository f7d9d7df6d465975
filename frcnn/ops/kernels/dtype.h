// Data types of the kernels and their conversion to and from float32, for host and device, scalars and vectors.
#pragma once

#if defined(__CUDACC_RTC__)  // NVRTC has no standard headers
using uint16_t = unsigned short;
using int32_t = int;
using uint32_t = unsigned int;
using int64_t = long long;
using uint64_t = unsigned long long;
#else
#include <cmath>
#include <cstdint>
#include <cstring>
#endif

#if defined(__CUDACC__)
#define FRCNN_HD __host__ __device__ __forceinline__
#else
#define FRCNN_HD inline __attribute__((always_inline))
#endif

namespace frcnn {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// Element type of a buffer, where it is known at run time only.
enum class DType { kFloat32, kBFloat16, kFloat16 };

template <class To, class From>
FRCNN_HD To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps every bit");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

// U is uint32_t or a vector of them, F is float or the vector of the same length; ?: selects per lane.
template <class F, class U>
FRCNN_HD F widen(U bits, BFloat16) {
  return bit_cast<F>(U(bits << 16));
}

template <class U, class F>
FRCNN_HD U narrow(F value, BFloat16) {
  const U bits = bit_cast<U>(value);
  const U rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
  return value == value ? rounded : U((bits >> 16) | 0x40u);       // a NaN must not round to infinity
}

template <class F, class U>
FRCNN_HD F widen(U bits, Float16) {
  const U magnitude = bits & 0x7fffu;
  // Rebias the exponent, twice for infinity and NaN, whose exponent is the last one in both formats.
  const U normal = (magnitude << 13) + 0x38000000u + (magnitude >= 0x7c00u ? U(U{} + 0x38000000u) : U{});
  // The last mantissa bits of 0.5 have the weight of a subnormal half's bits. Subnormal float32 values must not occur
  // on the way, because TensorFlow's threads flush them to zero.
  const U subnormal = bit_cast<U>(F(bit_cast<F>(U(magnitude + 0x3f000000u)) - 0.5f));
  return bit_cast<F>(U((magnitude < 0x400u ? subnormal : normal) | ((bits & 0x8000u) << 16)));
}

template <class U, class F>
FRCNN_HD U narrow(F value, Float16) {
  const U bits = bit_cast<U>(value);
  const U sign = (bits >> 16) & 0x8000u;
  const U magnitude = bits & 0x7fffffffu;
  // Normal halves: rebias the exponent, round to nearest even. 65520 and above round to infinity.
  const U normal = (magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
  // Subnormal halves: adding 0.5 leaves the half's bits, rounded by the hardware, in the low bits of the mantissa.
  const U subnormal = bit_cast<U>(F(bit_cast<F>(magnitude) + 0.5f)) - 0x3f000000u;
  const U finite = magnitude < 0x38800000u ? subnormal : normal;
  const U large = magnitude > 0x7f800000u ? U(U{} + 0x7e00u) : U(U{} + 0x7c00u);
  return sign | (magnitude >= 0x47800000u ? large : finite);
}

FRCNN_HD float to_float(float value) {
  return value;
}
FRCNN_HD float to_float(BFloat16 value) {
  return widen<float>(uint32_t(value.bits), value);
}
FRCNN_HD float to_float(Float16 value) {
#if defined(__CUDA_ARCH__)  // one instruction
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#else
  return widen<float>(uint32_t(value.bits), value);
#endif
}

FRCNN_HD void from_float(float value, float* to) {
  *to = value;
}
FRCNN_HD void from_float(float value, BFloat16* to) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to->bits) : "f"(value));
#else
  to->bits = uint16_t(narrow<uint32_t>(value, *to));
#endif
}
FRCNN_HD void from_float(float value, Float16* to) {
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to->bits) : "f"(value));
#else
  to->bits = uint16_t(narrow<uint32_t>(value, *to));
#endif
}

}  // namespace frcnn
