// Group norm on a CPU, vectorized over channels. Each direction reads its inputs twice and writes its result once.
//
// Sums are taken over chunks of pixels, whose number depends on the shape only, and added up in double precision in
// their order: results do not depend on the number of threads.
#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "group_norm.h"
#include "vectors.h"

namespace frcnn {
namespace {

constexpr int64_t kChunkElements = 1 << 15;

// A range of pixels of one image, and the first channel of each array of [pixels, channels].
struct Chunk {
  int64_t pixels, channels;
};

// Per-channel coefficients of one image.
struct Affine {
  const float *scale, *shift;
};

// Visits all channels as kVectors * kLanes, then kLanes, then single ones: visit(width, first channel).
template <class Visit>
FRCNN_HD void each_channels(int64_t channels, Visit&& visit) {
  int64_t c = 0;
  for (; c + 4 * kLanes <= channels; c += 4 * kLanes) visit.template vectors<4>(c);
  for (; c + kLanes <= channels; c += kLanes) visit.template vectors<1>(c);
  for (; c < channels; ++c) visit.single(c);
}

// Sums of the differences from `center` and of their squares, per channel.
template <class T>
struct Moments {
  Chunk chunk;
  const T* inputs;
  const float* center;
  float *sum, *square;

  template <int kVectors>
  FRCNN_HD void vectors(int64_t c) const {
    Floats middle[kVectors], first[kVectors] = {}, second[kVectors] = {};
    for (int v = 0; v < kVectors; ++v) middle[v] = load(center + c + v * kLanes);
    for (int64_t p = 0; p < chunk.pixels; ++p)
      for (int v = 0; v < kVectors; ++v) {
        const Floats value = load(inputs + p * chunk.channels + c + v * kLanes) - middle[v];
        first[v] += value;
        second[v] += value * value;
      }
    for (int v = 0; v < kVectors; ++v) {
      store(first[v], sum + c + v * kLanes);
      store(second[v], square + c + v * kLanes);
    }
  }

  FRCNN_HD void single(int64_t c) const {
    float first = 0.0f, second = 0.0f;
    for (int64_t p = 0; p < chunk.pixels; ++p) {
      const float value = to_float(inputs[p * chunk.channels + c]) - center[c];
      first += value;
      second += value * value;
    }
    sum[c] = first;
    square[c] = second;
  }
};

template <class T>
struct Apply {
  Chunk chunk;
  bool relu;
  const T* inputs;
  Affine affine;
  T* outputs;

  template <int kVectors>
  FRCNN_HD void vectors(int64_t c) const {
    Floats scale[kVectors], shift[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      scale[v] = load(affine.scale + c + v * kLanes);
      shift[v] = load(affine.shift + c + v * kLanes);
    }
    for (int64_t p = 0; p < chunk.pixels; ++p)
      for (int v = 0; v < kVectors; ++v) {
        const int64_t at = p * chunk.channels + c + v * kLanes;
        const Floats value = load(inputs + at) * scale[v] + shift[v];
        store(relu ? Floats(value < 0.0f ? Floats{} : value) : value, outputs + at);  // NaN stays NaN
      }
  }

  FRCNN_HD void single(int64_t c) const {
    for (int64_t p = 0; p < chunk.pixels; ++p) {
      const float value = to_float(inputs[p * chunk.channels + c]) * affine.scale[c] + affine.shift[c];
      from_float(relu && value < 0.0f ? 0.0f : value, outputs + p * chunk.channels + c);
    }
  }
};

// Sums of the gradient behind the ReLU, and of its product with the inputs' difference from the mean, per channel.
template <class T>
struct GradientSums {
  Chunk chunk;
  bool relu;
  const T *upstream, *inputs;
  Affine affine;
  const float* mean;
  float *sum, *product;

  template <int kVectors>
  FRCNN_HD void vectors(int64_t c) const {
    Floats scale[kVectors], shift[kVectors], middle[kVectors], first[kVectors] = {}, second[kVectors] = {};
    for (int v = 0; v < kVectors; ++v) {
      scale[v] = load(affine.scale + c + v * kLanes);
      shift[v] = load(affine.shift + c + v * kLanes);
      middle[v] = load(mean + c + v * kLanes);
    }
    for (int64_t p = 0; p < chunk.pixels; ++p)
      for (int v = 0; v < kVectors; ++v) {
        const int64_t at = p * chunk.channels + c + v * kLanes;
        const Floats value = load(inputs + at);
        Floats gradient = load(upstream + at);
        if (relu) gradient = value * scale[v] + shift[v] > 0.0f ? gradient : Floats{};
        first[v] += gradient;
        second[v] += gradient * (value - middle[v]);
      }
    for (int v = 0; v < kVectors; ++v) {
      store(first[v], sum + c + v * kLanes);
      store(second[v], product + c + v * kLanes);
    }
  }

  FRCNN_HD void single(int64_t c) const {
    float first = 0.0f, second = 0.0f;
    for (int64_t p = 0; p < chunk.pixels; ++p) {
      const float value = to_float(inputs[p * chunk.channels + c]);
      if (relu && !(value * affine.scale[c] + affine.shift[c] > 0.0f)) continue;
      const float gradient = to_float(upstream[p * chunk.channels + c]);
      first += gradient;
      second += gradient * (value - mean[c]);
    }
    sum[c] = first;
    product[c] = second;
  }
};

// gradient = scale * upstream behind the ReLU + slope * inputs + offset, per channel.
template <class T>
struct Gradient {
  Chunk chunk;
  bool relu;
  const T *upstream, *inputs;
  Affine affine;
  const float *slope, *offset;
  T* gradient;

  template <int kVectors>
  FRCNN_HD void vectors(int64_t c) const {
    Floats scale[kVectors], shift[kVectors], slopes[kVectors], offsets[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      scale[v] = load(affine.scale + c + v * kLanes);
      shift[v] = load(affine.shift + c + v * kLanes);
      slopes[v] = load(slope + c + v * kLanes);
      offsets[v] = load(offset + c + v * kLanes);
    }
    for (int64_t p = 0; p < chunk.pixels; ++p)
      for (int v = 0; v < kVectors; ++v) {
        const int64_t at = p * chunk.channels + c + v * kLanes;
        const Floats value = load(inputs + at);
        Floats behind = load(upstream + at);
        if (relu) behind = value * scale[v] + shift[v] > 0.0f ? behind : Floats{};
        store(scale[v] * behind + slopes[v] * value + offsets[v], gradient + at);
      }
  }

  FRCNN_HD void single(int64_t c) const {
    for (int64_t p = 0; p < chunk.pixels; ++p) {
      const int64_t at = p * chunk.channels + c;
      const float value = to_float(inputs[at]);
      const bool passes = !relu || value * affine.scale[c] + affine.shift[c] > 0.0f;
      const float behind = passes ? to_float(upstream[at]) : 0.0f;
      from_float(affine.scale[c] * behind + slope[c] * value + offset[c], gradient + at);
    }
  }
};

// Cloned once per instruction set; everything above is inlined into these.
#define FRCNN_CLONE(Pass)                             \
  FRCNN_CLONES void run(const Pass<float>& pass) {    \
    each_channels(pass.chunk.channels, pass);         \
  }                                                   \
  FRCNN_CLONES void run(const Pass<BFloat16>& pass) { \
    each_channels(pass.chunk.channels, pass);         \
  }                                                   \
  FRCNN_CLONES void run(const Pass<Float16>& pass) {  \
    each_channels(pass.chunk.channels, pass);         \
  }
FRCNN_CLONE(Moments)
FRCNN_CLONE(Apply)
FRCNN_CLONE(GradientSums)
FRCNN_CLONE(Gradient)

// The chunks of a batch.
struct Chunks {
  explicit Chunks(const GroupNormShape& shape)
      : shape(shape),
        size(std::max<int64_t>(1, kChunkElements / std::max<int64_t>(1, shape.channels))),
        per_image((shape.pixels + size - 1) / size) {}

  // Runs body(image, index of the chunk in the batch, offset of its first element, chunk) on the thread pool.
  template <class Each>
  void each(const ParallelFor& parallel, const Each& body) const {
    parallel(shape.batch * per_image, 1, [&](int64_t first, int64_t last) {
      for (int64_t n = first; n < last; ++n) {
        const int64_t image = n / per_image, begin = n % per_image * size;
        const Chunk chunk{std::min(size, shape.pixels - begin), shape.channels};
        body(image, n, (image * shape.pixels + begin) * shape.channels, chunk);
      }
    });
  }

  // Sums partial results [chunks, channels] of one image, for one channel.
  double total(const std::vector<float>& partial, int64_t image, int64_t channel) const {
    double sum = 0.0;
    for (int64_t n = image * per_image; n < (image + 1) * per_image; ++n) sum += partial[n * shape.channels + channel];
    return sum;
  }

  GroupNormShape shape;
  int64_t size, per_image;
};

// scale and shift [batch, channels] of the forward pass.
void make_affine(const GroupNormShape& shape, const float* gamma, const float* beta, const float* mean,
                 const float* rstd, std::vector<float>* scale, std::vector<float>* shift) {
  const int64_t members = shape.channels / shape.groups;
  for (int64_t n = 0; n < shape.batch * shape.channels; ++n) {
    const int64_t image = n / shape.channels, c = n % shape.channels, group = image * shape.groups + c / members;
    scale->at(n) = rstd[group] * gamma[c];
    shift->at(n) = beta[c] - mean[group] * scale->at(n);
  }
}

template <class T>
void forward(const GroupNormShape& shape, float epsilon, bool relu, const T* inputs, const float* gamma,
             const float* beta, T* outputs, float* mean, float* rstd, const ParallelFor& parallel) {
  const Chunks chunks(shape);
  const int64_t channels = shape.channels, members = channels / shape.groups;
  // Differences from an image's first pixel: sums of squares of values far from zero would lose the variance.
  std::vector<float> center(shape.batch * channels), scale(center.size()), shift(center.size());
  for (int64_t n = 0; n < shape.batch * channels; ++n)
    center[n] = to_float(inputs[n / channels * shape.pixels * channels + n % channels]);
  std::vector<float> sums(shape.batch * chunks.per_image * channels), squares(sums.size());
  chunks.each(parallel, [&](int64_t image, int64_t n, int64_t offset, const Chunk& chunk) {
    run(Moments<T>{chunk, inputs + offset, &center[image * channels], &sums[n * channels], &squares[n * channels]});
  });
  const double pixels = double(shape.pixels);
  std::vector<double> means(members);
  for (int64_t n = 0; n < shape.batch * shape.groups; ++n) {
    const int64_t image = n / shape.groups, first = n % shape.groups * members;
    double average = 0.0, deviations = 0.0;
    for (int64_t m = 0; m < members; ++m) {
      const double sum = chunks.total(sums, image, first + m), square = chunks.total(squares, image, first + m);
      means[m] = double(center[image * channels + first + m]) + sum / pixels;
      average += means[m] / double(members);
      deviations += square - sum * sum / pixels;
    }
    for (int64_t m = 0; m < members; ++m) deviations += pixels * (means[m] - average) * (means[m] - average);
    const double variance = deviations / (pixels * double(members));
    mean[n] = float(average);
    rstd[n] = float(1.0 / std::sqrt((variance < 0.0 ? 0.0 : variance) + double(epsilon)));
  }
  make_affine(shape, gamma, beta, mean, rstd, &scale, &shift);
  chunks.each(parallel, [&](int64_t image, int64_t, int64_t offset, const Chunk& chunk) {
    const Affine affine{&scale[image * channels], &shift[image * channels]};
    run(Apply<T>{chunk, relu, inputs + offset, affine, outputs + offset});
  });
}

template <class T>
void backward(const GroupNormShape& shape, bool relu, const T* upstream, const T* inputs, const float* gamma,
              const float* beta, const float* mean, const float* rstd, T* gradient, float* gamma_gradient,
              float* beta_gradient, const ParallelFor& parallel) {
  const Chunks chunks(shape);
  const int64_t channels = shape.channels, members = channels / shape.groups;
  std::vector<float> scale(shape.batch * channels), shift(scale.size()), means(scale.size());
  make_affine(shape, gamma, beta, mean, rstd, &scale, &shift);
  for (int64_t n = 0; n < shape.batch * channels; ++n)
    means[n] = mean[n / channels * shape.groups + n % channels / members];
  std::vector<float> sums(shape.batch * chunks.per_image * channels), products(sums.size());
  chunks.each(parallel, [&](int64_t image, int64_t n, int64_t offset, const Chunk& chunk) {
    const Affine affine{&scale[image * channels], &shift[image * channels]};
    run(GradientSums<T>{chunk, relu, upstream + offset, inputs + offset, affine, &means[image * channels],
                        &sums[n * channels], &products[n * channels]});
  });
  // With g the gradient behind the ReLU and h the normalized inputs, averaged over the group's elements, the gradient
  // of the inputs is rstd * (gamma * g - average(gamma * g) - h * average(gamma * g * h)).
  std::vector<double> of_gamma(channels), of_beta(channels);
  std::vector<float> slope(scale.size()), offset(scale.size());
  const double elements = double(shape.pixels) * double(members);
  for (int64_t n = 0; n < shape.batch * shape.groups; ++n) {
    const int64_t image = n / shape.groups, first = n % shape.groups * members;
    const double deviation = rstd[n];
    double average = 0.0, product = 0.0;
    for (int64_t c = first; c < first + members; ++c) {
      const double sum = chunks.total(sums, image, c), normalized = chunks.total(products, image, c) * deviation;
      of_beta[c] += sum;
      of_gamma[c] += normalized;
      average += double(gamma[c]) * sum / elements;
      product += double(gamma[c]) * normalized / elements;
    }
    for (int64_t c = first; c < first + members; ++c) {
      slope[image * channels + c] = float(-deviation * deviation * product);
      offset[image * channels + c] = float(-deviation * average + deviation * deviation * product * double(mean[n]));
    }
  }
  for (int64_t c = 0; c < channels; ++c) {
    gamma_gradient[c] = float(of_gamma[c]);
    beta_gradient[c] = float(of_beta[c]);
  }
  chunks.each(parallel, [&](int64_t image, int64_t, int64_t at, const Chunk& chunk) {
    const Affine affine{&scale[image * channels], &shift[image * channels]};
    run(Gradient<T>{chunk, relu, upstream + at, inputs + at, affine, &slope[image * channels],
                    &offset[image * channels], gradient + at});
  });
}

// Calls body with a null pointer of the element type.
template <class Call>
void with_type(DType dtype, const Call& body) {
  if (dtype == DType::kFloat32) return body(static_cast<float*>(nullptr));
  if (dtype == DType::kBFloat16) return body(static_cast<BFloat16*>(nullptr));
  return body(static_cast<Float16*>(nullptr));
}

}  // namespace

void group_norm_forward(const GroupNormShape& shape, DType dtype, float epsilon, bool relu, const void* inputs,
                        const float* gamma, const float* beta, void* outputs, float* mean, float* rstd,
                        const ParallelFor& parallel) {
  with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    forward(shape, epsilon, relu, static_cast<const T*>(inputs), gamma, beta, static_cast<T*>(outputs), mean, rstd,
            parallel);
  });
}

void group_norm_backward(const GroupNormShape& shape, DType dtype, bool relu, const void* upstream, const void* inputs,
                         const float* gamma, const float* beta, const float* mean, const float* rstd, void* gradient,
                         float* gamma_gradient, float* beta_gradient, const ParallelFor& parallel) {
  with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    backward(shape, relu, static_cast<const T*>(upstream), static_cast<const T*>(inputs), gamma, beta, mean, rstd,
             static_cast<T*>(gradient), gamma_gradient, beta_gradient, parallel);
  });
}

}  // namespace frcnn
