// Global norm and updates of all variables on a CPU: chunks of all variables are divided among the threads.
#include <cmath>

#include "cpu.h"
#include "tensor_chunks.h"
#include "vectors.h"

namespace frcnn {
namespace {

template <UpdateRule kRule>
FRCNN_HD void update_elements(const UpdateScalars& shared, const UpdateConstants& constants, const Updated& variable,
                              int64_t begin, int64_t end) {
  // An element depends on no other one, though inputs and outputs may be the same memory.
#pragma GCC ivdep
  for (int64_t i = begin; i < end; ++i) {
    update_element<kRule>(shared, constants, variable, i);
  }
}

// Cloned once per instruction set.
#define FRCNN_CLONE(name, kRule)                                                                                 \
  FRCNN_CLONES void name(const UpdateScalars& shared, const UpdateConstants& constants, const Updated& variable, \
                         int64_t begin, int64_t end) {                                                           \
    update_elements<UpdateRule::kRule>(shared, constants, variable, begin, end);                                 \
  }
FRCNN_CLONE(update_sgd, kSgd)
FRCNN_CLONE(update_momentum, kMomentum)
FRCNN_CLONE(update_nesterov, kNesterov)
FRCNN_CLONE(update_adamw, kAdamW)
FRCNN_CLONE(update_average, kAverage)

FRCNN_CLONES double sum_of_squares(const float* values, int64_t size) {
  Floats sums{};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    const Floats part = load(values + i);
    sums += part * part;
  }
  double total = 0.0;
  for (; i < size; ++i) total += double(values[i]) * values[i];
  for (int lane = 0; lane < kLanes; ++lane) total += sums[lane];
  return total;
}

}  // namespace

void update_all(const UpdateCall& call, const ParallelFor& parallel) {
  const auto run = call.rule == UpdateRule::kSgd        ? update_sgd
                   : call.rule == UpdateRule::kMomentum ? update_momentum
                   : call.rule == UpdateRule::kNesterov ? update_nesterov
                   : call.rule == UpdateRule::kAdamW    ? update_adamw
                                                        : update_average;
  TensorChunks(call.variables, call.count)
      .run(call.variables, parallel, [&](int64_t, const Updated& variable, int64_t begin, int64_t end) {
        run(*call.shared, call.constants, variable, begin, end);
      });
}

float global_norm(const Normed* tensors, int64_t count, const ParallelFor& parallel) {
  const TensorChunks chunks(tensors, count);
  std::vector<double> sums(chunks.count());
  chunks.run(tensors, parallel, [&](int64_t chunk, const Normed& tensor, int64_t begin, int64_t end) {
    sums[chunk] = sum_of_squares(tensor.values + begin, end - begin);
  });
  double total = 0.0;  // in the order of the chunks, whichever thread summed them
  for (double sum : sums) total += sum;
  return float(std::sqrt(total));
}

}  // namespace frcnn
