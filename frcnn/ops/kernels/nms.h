// The arithmetic of non-maximum suppression, for both compilers; F is float or a vector of them.
//
// The order of operations is torchvision's, and nothing may be fused (-ffp-contract=off, -fmad=false): at the threshold
// the last bit decides whether a box is kept.
#pragma once

#include "dtype.h"

namespace frcnn {

template <class F>
FRCNN_HD F area(F x1, F y1, F x2, F y2) {
  return (x2 - x1) * (y2 - y1);
}

template <class F>
FRCNN_HD F overlap_length(F low1, F high1, F low2, F high2) {
  const F low = low1 > low2 ? low1 : low2;
  const F high = high1 < high2 ? high1 : high2;
  const F length = high - low;
  return length > 0.0f ? length : F{};
}

// IoU = intersection / union_area. A NaN coordinate makes union_area NaN, so that the IoU exceeds no threshold.
template <class F>
struct Overlap {
  F intersection, union_area;
};

template <class F>
FRCNN_HD Overlap<F> intersect(F x1, F y1, F x2, F y2, F area1, F u1, F v1, F u2, F v2, F area2) {
  const F intersection = overlap_length(x1, x2, u1, u2) * overlap_length(y1, y2, v1, v2);
  return {intersection, area1 + area2 - intersection};
}

// Ascending keys order candidates by descending score, then by ascending index.
FRCNN_HD uint64_t order_key(float score, int index) {
  const uint32_t bits = bit_cast<uint32_t>(score + 0.0f);  // -0.0 and 0.0 are equal
  const uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return (uint64_t(~ascending) << 32) | uint32_t(index);
}

FRCNN_HD bool is_candidate(float score) {
  return bit_cast<uint32_t>(score) != 0xff800000u && score == score;
}

}  // namespace frcnn
