// Shape and arithmetic of group norm that the CPU and GPU kernels share.
#pragma once

#include "dtype.h"

namespace frcnn {

// Inputs [batch, pixels, channels]; every group has channels / groups consecutive channels.
struct GroupNormShape {
  int64_t batch, pixels, channels, groups;
};

// The outputs before the ReLU are scale * inputs + shift.
FRCNN_HD float norm_scale(float gamma, float rstd) {
  return rstd * gamma;
}
FRCNN_HD float norm_shift(float beta, float mean, float scale) {
  return beta - mean * scale;
}

// The gradient of the inputs is scale * g + slope * inputs + offset, where g is the gradient behind the ReLU; `average`
// and `product` are the averages over the group's elements of gamma * g and of gamma * g * normalized inputs.
FRCNN_HD double norm_slope(double rstd, double product) {
  return -rstd * rstd * product;
}
FRCNN_HD double norm_offset(double mean, double rstd, double average, double product) {
  return -rstd * average + rstd * rstd * product * mean;
}

}  // namespace frcnn
