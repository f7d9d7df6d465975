// Tensors times a factor per channel, and conversion of their type, for several tensors in one operation, shared by the
// CPU and GPU kernels.
#pragma once

#include "dtype.h"

namespace frcnn {

// to[i] = from[i] * scale[i % channels], rounded once.
struct ChannelScaled {
  int64_t size;
  int64_t channels;
  const void* from;
  const float* scale;  // [channels]
  void* to;
};

// One of the types is float32.
struct ChannelScaleCall {
  DType from, to;
  const ChannelScaled* tensors;  // in host memory
  int64_t count;
};

}  // namespace frcnn
