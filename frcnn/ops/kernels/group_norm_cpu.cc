// Group norm on a CPU, vectorized over channels. Each direction reads its inputs twice and writes its result once.
//
// Sums are taken over chunks of pixels, whose number depends on the shape only, and added up in double precision in
// their order: results do not depend on the number of threads.
#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "cpu.h"
#include "group_norm_passes.h"

namespace frcnn {
namespace {

constexpr int64_t kChunkElements = 1 << 15;

// Cloned once per instruction set; the passes are inlined into these.
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
    scale->at(n) = norm_scale(gamma[c], rstd[group]);
    shift->at(n) = norm_shift(beta[c], mean[group], scale->at(n));
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
      slope[image * channels + c] = float(norm_slope(deviation, product));
      offset[image * channels + c] = float(norm_offset(mean[n], deviation, average, product));
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
