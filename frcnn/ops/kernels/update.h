// Global norm, and updates by SGD, AdamW and moving average, over all variables of a model in one operation, shared by
// the CPU and GPU kernels.
#pragma once

#include "dtype.h"

namespace frcnn {

// A float32 variable that is updated; `to` may be `from`. Both are nullptr where the rule has no such variable.
struct Slot {
  const float* from;
  float* to;
};

// One variable of a model. A moving average only reads the weight, and `first` is the average.
struct Updated {
  int64_t size;
  const float* gradient;
  Slot weight;
  Slot first, second;        // velocity, or the moments of AdamW
  float rate_factor, decay;  // of the learning rate; weight decay
};

// What all variables share, in device memory, because the graph computes it.
struct UpdateScalars {
  float rate;        // learning rate; of a moving average: the weight of its old value
  float scale;       // factor of the gradients
  float correction;  // AdamW: factor of the step, for the bias of the moments
  float epsilon;     // AdamW: added to the root of the second moment
};
constexpr int kUpdateScalars = 4;

enum class UpdateRule { kSgd, kMomentum, kNesterov, kAdamW, kAverage };

struct UpdateConstants {
  float momentum;
  float beta1, beta2;
};

struct UpdateCall {
  UpdateRule rule;
  UpdateConstants constants;
  const UpdateScalars* shared;
  const Updated* variables;  // in host memory
  int64_t count;             // of variables
};

// A tensor of a global norm.
struct Normed {
  int64_t size;
  const float* values;
};

// The update of one element. As in PyTorch, SGD adds the decay to the gradient; as in Keras, the velocity includes the
// learning rate.
template <UpdateRule kRule>
FRCNN_HD void update(const UpdateScalars& shared, const UpdateConstants& constants, float rate_factor, float decay,
                     float gradient, float* weight, float* first, float* second) {
  const float rate = shared.rate * rate_factor;
  const float scaled = shared.scale * gradient;
  if (kRule == UpdateRule::kAverage) {
    *first -= (1.0f - shared.rate) * (*first - *weight);
  } else if (kRule == UpdateRule::kAdamW) {
    *first += (1.0f - constants.beta1) * (scaled - *first);
    *second += (1.0f - constants.beta2) * (scaled * scaled - *second);
    *weight -= decay * rate * *weight;
    *weight -= rate * shared.correction * *first / (sqrtf(*second) + shared.epsilon);
  } else {
    const float step = rate * (scaled + decay * *weight);
    if (kRule == UpdateRule::kSgd) {
      *weight -= step;
    } else {
      *first = constants.momentum * *first - step;
      *weight += kRule == UpdateRule::kNesterov ? constants.momentum * *first - step : *first;
    }
  }
}

// Reads what the rule needs of element i, and writes what it changes.
template <UpdateRule kRule>
FRCNN_HD void update_element(const UpdateScalars& shared, const UpdateConstants& constants, const Updated& variable,
                             int64_t i) {
  float weight = variable.weight.from[i], first = 0.0f, second = 0.0f, gradient = 0.0f;
  if (kRule != UpdateRule::kSgd) first = variable.first.from[i];
  if (kRule == UpdateRule::kAdamW) second = variable.second.from[i];
  if (kRule != UpdateRule::kAverage) gradient = variable.gradient[i];
  update<kRule>(shared, constants, variable.rate_factor, variable.decay, gradient, &weight, &first, &second);
  if (kRule != UpdateRule::kAverage) variable.weight.to[i] = weight;
  if (kRule != UpdateRule::kSgd) variable.first.to[i] = first;
  if (kRule == UpdateRule::kAdamW) variable.second.to[i] = second;
}

}  // namespace frcnn
