// The passes of group norm over a chunk of one image, vectorized over channels; group_norm_cpu.cc runs them.
#pragma once

#include "vectors.h"

namespace frcnn {

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

}  // namespace frcnn
