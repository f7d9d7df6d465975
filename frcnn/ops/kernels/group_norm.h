// Interface of group norm with an optional ReLU on a CPU: plain buffers and a thread pool, no TensorFlow types.
#pragma once

#include "cpu.h"
#include "dtype.h"

namespace frcnn {

// Inputs [batch, pixels, channels]; every group has channels / groups consecutive channels.
struct GroupNormShape {
  int64_t batch, pixels, channels, groups;
};

// outputs = act((inputs - mean) * rstd * gamma + beta), act is ReLU or the identity. Also writes mean and rstd, the
// reciprocal standard deviation, [batch, groups]. gamma and beta: [channels].
void group_norm_forward(const GroupNormShape& shape, DType dtype, float epsilon, bool relu, const void* inputs,
                        const float* gamma, const float* beta, void* outputs, float* mean, float* rstd,
                        const ParallelFor& parallel);

// The gradients of inputs, gamma and beta from that of the outputs.
void group_norm_backward(const GroupNormShape& shape, DType dtype, bool relu, const void* upstream, const void* inputs,
                         const float* gamma, const float* beta, const float* mean, const float* rstd, void* gradient,
                         float* gamma_gradient, float* beta_gradient, const ParallelFor& parallel);

}  // namespace frcnn
