// Tensors times a factor per channel on a GPU: bound by memory traffic.
#include "device.h"
#include "tensor_table.h"

namespace frcnn {

// Grid: the blocks of the table.
template <class From, class To>
__device__ __forceinline__ void scale_chunk(const ChannelScaleTable& table) {
  const ChunkRange chunk = chunk_of_block(table);
  const ChannelScaled& tensor = table.tensor[chunk.tensor];
  const From* from = static_cast<const From*>(tensor.from) + chunk.begin;
  To* to = static_cast<To*>(tensor.to) + chunk.begin;
  // 32 bits, whose division is several times faster.
  const uint32_t channels = uint32_t(tensor.channels), first = uint32_t(chunk.begin % tensor.channels);
  const uint32_t count = uint32_t(chunk.end - chunk.begin);
#pragma unroll 4
  for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
    from_float(to_float(from[i]) * tensor.scale[(first + i) % channels], to + i);
  }
}

}  // namespace frcnn

using namespace frcnn;

#define FRCNN_CHANNEL_SCALE_KERNEL(From, To, name)                                                 \
  extern "C" __global__ void frcnn_channel_scale_##name(FRCNN_PARAMETER ChannelScaleTable table) { \
    scale_chunk<From, To>(table);                                                                  \
  }                                                                                                \
  FRCNN_KERNEL(ChannelScaleKernel, frcnn_channel_scale_##name);

FRCNN_CHANNEL_SCALE_KERNEL(float, float, float32_to_float32)
FRCNN_CHANNEL_SCALE_KERNEL(float, BFloat16, float32_to_bfloat16)
FRCNN_CHANNEL_SCALE_KERNEL(float, Float16, float32_to_float16)
FRCNN_CHANNEL_SCALE_KERNEL(BFloat16, float, bfloat16_to_float32)
FRCNN_CHANNEL_SCALE_KERNEL(Float16, float, float16_to_float32)
