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
    float weight = variable.weight.from[i], first = 0.0f, second = 0.0f, gradient = 0.0f;
    if (kRule != UpdateRule::kSgd) first = variable.first.from[i];
    if (kRule == UpdateRule::kAdamW) second = variable.second.from[i];
    if (kRule != UpdateRule::kAverage) gradient = variable.gradient[i];
    update<kRule>(shared, constants, variable.rate_factor, variable.decay, gradient, &weight, &first, &second);
    if (kRule != UpdateRule::kAverage) variable.weight.to[i] = weight;
    if (kRule != UpdateRule::kSgd) variable.first.to[i] = first;
    if (kRule == UpdateRule::kAdamW) variable.second.to[i] = second;
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
  const TensorChunks chunks(call.variables, call.count);
  parallel(chunks.count(), 1, [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk) {
      const int64_t tensor = chunks.tensor(chunk);
      const Updated& variable = call.variables[tensor];
      const int64_t begin = chunks.first(chunk, tensor);
      run(*call.shared, call.constants, variable, begin, std::min(begin + TensorChunks::kSize, variable.size));
    }
  });
}

float global_norm(const Normed* tensors, int64_t count, const ParallelFor& parallel) {
  const TensorChunks chunks(tensors, count);
  std::vector<double> sums(chunks.count());
  parallel(chunks.count(), 1, [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk) {
      const int64_t tensor = chunks.tensor(chunk), begin = chunks.first(chunk, tensor);
      sums[chunk] =
          sum_of_squares(tensors[tensor].values + begin, std::min(TensorChunks::kSize, tensors[tensor].size - begin));
    }
  });
  double total = 0.0;  // in the order of the chunks, whichever thread summed them
  for (double sum : sums) total += sum;
  return float(std::sqrt(total));
}

}  // namespace frcnn
