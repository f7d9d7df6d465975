// Tensors times a factor per channel on a CPU.
#include "cpu.h"
#include "tensor_chunks.h"
#include "vectors.h"

namespace frcnn {
namespace {

template <class From, class To>
FRCNN_HD void scale_elements(const ChannelScaled& tensor, int64_t begin, int64_t end) {
  const From* from = static_cast<const From*>(tensor.from);
  To* to = static_cast<To*>(tensor.to);
  int64_t channel = begin % tensor.channels;
  for (int64_t i = begin; i < end; channel = 0) {
    const int64_t run = std::min(tensor.channels - channel, end - i);
    const float* scale = tensor.scale + channel;
#pragma GCC ivdep
    for (int64_t c = 0; c < run; ++c) from_float(to_float(from[i + c]) * scale[c], to + i + c);
    i += run;
  }
}

// Cloned once per instruction set.
#define FRCNN_CLONE(name, From, To)                                                 \
  FRCNN_CLONES void name(const ChannelScaled& tensor, int64_t begin, int64_t end) { \
    scale_elements<From, To>(tensor, begin, end);                                   \
  }
FRCNN_CLONE(scale_floats, float, float)
FRCNN_CLONE(scale_to_bfloat16, float, BFloat16)
FRCNN_CLONE(scale_to_float16, float, Float16)
FRCNN_CLONE(scale_bfloat16, BFloat16, float)
FRCNN_CLONE(scale_float16, Float16, float)

}  // namespace

void channel_scale(const ChannelScaleCall& call, const ParallelFor& parallel) {
  const auto run = call.from == DType::kBFloat16  ? scale_bfloat16
                   : call.from == DType::kFloat16 ? scale_float16
                   : call.to == DType::kBFloat16  ? scale_to_bfloat16
                   : call.to == DType::kFloat16   ? scale_to_float16
                                                  : scale_floats;
  TensorChunks(call.tensors, call.count)
      .run(call.tensors, parallel,
           [&](int64_t, const ChannelScaled& tensor, int64_t begin, int64_t end) { run(tensor, begin, end); });
}

}  // namespace frcnn
