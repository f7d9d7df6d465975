// Global norm and updates of all variables on a GPU: bound by memory traffic.
#include "device.h"
#include "tensor_table.h"

namespace frcnn {

// Grid: the blocks of the table.
template <UpdateRule kRule>
__device__ __forceinline__ void update_chunk(const UpdateTable& table, const UpdateConstants& constants,
                                             const UpdateScalars* scalars) {
  const ChunkRange chunk = chunk_of_block(table);
  const Updated& variable = table.tensor[chunk.tensor];
  const UpdateScalars shared = *scalars;
#pragma unroll 4
  for (int64_t i = chunk.begin + threadIdx.x; i < chunk.end; i += blockDim.x) {
    update_element<kRule>(shared, constants, variable, i);
  }
}

// Sum over the threads of a block, in double; on thread 0 only.
__device__ __forceinline__ double block_sum(double value) {
  FRCNN_SHARED(double, sums);
  sums[threadIdx.x] = value;
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  return sums[0];
}

}  // namespace frcnn

using namespace frcnn;

#define FRCNN_UPDATE_KERNEL(kRule, name)                                                                       \
  extern "C" __global__ void frcnn_update_##name(FRCNN_PARAMETER UpdateTable table, UpdateConstants constants, \
                                                 const UpdateScalars* scalars) {                               \
    update_chunk<UpdateRule::kRule>(table, constants, scalars);                                                \
  }                                                                                                            \
  FRCNN_KERNEL(UpdateKernel, frcnn_update_##name);

FRCNN_UPDATE_KERNEL(kSgd, sgd)
FRCNN_UPDATE_KERNEL(kMomentum, momentum)
FRCNN_UPDATE_KERNEL(kNesterov, nesterov)
FRCNN_UPDATE_KERNEL(kAdamW, adamw)
FRCNN_UPDATE_KERNEL(kAverage, average)

// Grid: the blocks of the table. Writes the sum of squares of each chunk to sums[block].
extern "C" __global__ void frcnn_sums_of_squares(FRCNN_PARAMETER NormTable table, double* sums) {
  const ChunkRange chunk = chunk_of_block(table);
  const float* values = table.tensor[chunk.tensor].values;
  float partial = 0.0f;
#pragma unroll 4
  for (int64_t i = chunk.begin + threadIdx.x; i < chunk.end; i += blockDim.x) partial += values[i] * values[i];
  const double sum = block_sum(partial);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
FRCNN_KERNEL(SumsOfSquaresKernel, frcnn_sums_of_squares);

// Grid: one block. In a fixed order, so that the norm is the same in every run.
extern "C" __global__ void frcnn_root_of_sum(int64_t count, const double* sums, float* root) {
  double partial = 0.0;
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) partial += sums[i];
  const double sum = block_sum(partial);
  if (threadIdx.x == 0) *root = float(sqrt(sum));
}
FRCNN_KERNEL(RootOfSumKernel, frcnn_root_of_sum);
