// Launches the global norm and the updates of all variables on a GPU.
#include "cuda_launch.h"
#include "tensor_launch.h"

namespace frcnn {
namespace {

const char* kernel_of(UpdateRule rule) {
  switch (rule) {
    case UpdateRule::kSgd:
      return "frcnn_update_sgd";
    case UpdateRule::kMomentum:
      return "frcnn_update_momentum";
    case UpdateRule::kNesterov:
      return "frcnn_update_nesterov";
    case UpdateRule::kAdamW:
      return "frcnn_update_adamw";
    case UpdateRule::kAverage:
      return "frcnn_update_average";
  }
  return nullptr;
}

}  // namespace

const char* launch_update(const UpdateCall& call, void* stream) {
  const Kernel<UpdateKernel> kernel{kernel_of(call.rule)};
  return launch_tables(call.variables, call.count, [&](const UpdateTable& table, int64_t grid) {
    return kernel.launch({grid}, FRCNN_THREADS, 0, stream, table, call.constants, call.shared);
  });
}

int64_t global_norm_workspace_bytes(const Normed* tensors, int64_t count) {
  int64_t chunks = 0;
  for (int64_t i = 0; i < count; ++i) chunks += table_blocks(tensors[i].size);
  return chunks * int64_t(sizeof(double));
}

const char* launch_global_norm(const Normed* tensors, int64_t count, float* norm, void* workspace, void* stream) {
  constexpr size_t kShared = sizeof(double) * FRCNN_THREADS;
  double* const sums = static_cast<double*>(workspace);
  int64_t chunks = 0;
  const Kernel<SumsOfSquaresKernel> kernel{"frcnn_sums_of_squares"};
  const char* error = launch_tables(tensors, count, [&](const NormTable& table, int64_t grid) {
    double* const first = sums + chunks;
    chunks += grid;
    return kernel.launch({grid}, FRCNN_THREADS, kShared, stream, table, first);
  });
  if (error != nullptr) return error;
  return Kernel<RootOfSumKernel>{"frcnn_root_of_sum"}.launch({1}, FRCNN_THREADS, kShared, stream, chunks, sums, norm);
}

}  // namespace frcnn
