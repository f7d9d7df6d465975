// Launches tensors times a factor per channel on a GPU.
#include "cuda_launch.h"
#include "tensor_launch.h"

namespace frcnn {

const char* launch_channel_scale(const ChannelScaleCall& call, void* stream) {
  const Kernel<ChannelScaleKernel> kernel{"frcnn_channel_scale_" + dtype_name(call.from) + "_to_" +
                                          dtype_name(call.to)};
  return launch_tables(call.tensors, call.count, [&](const ChannelScaleTable& table, int64_t grid) {
    return kernel.launch({grid}, FRCNN_THREADS, 0, stream, table);
  });
}

}  // namespace frcnn
