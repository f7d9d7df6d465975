// Geometry of RoIAlign (Mask R-CNN, section 3) over a feature pyramid (FPN, equation 1), shared by the CPU and GPU
// kernels.
//
// The mean of the bilinear samples of a bin separates into rows and columns: validity and weights of a sample are per
// axis. So one axis of one bin is a short list of taps (pixel, weight); weights of samples that share a pixel are
// merged.
#pragma once

#include "dtype.h"

namespace frcnn {

constexpr int kMaxLevels = 8;

struct Pyramid {
  int levels, batch, channels;
  int height[kMaxLevels], width[kMaxLevels];
  float scale[kMaxLevels];  // feature pixels per canvas pixel
  float start[kMaxLevels];  // smallest box size of the level, canvas pixels; smaller boxes belong to the first level
};

struct Pooling {
  int bins;            // per side
  int sampling_ratio;  // per bin and axis; 0: one per feature pixel
  bool aligned;
};

struct Axis {
  float start, bin;  // feature pixels; bin is negative where the box's sides are swapped
  int extent, grid;  // pixels of the map, samples per bin
};

struct RoI {
  int level;  // -1: the result is zero
  int image;
  Axis y, x;
};

struct Tap {
  int pixel;
  float weight;
};

// Selected by value: a reference to one of two axes would force the RoI into a GPU thread's local memory.
FRCNN_HD Axis select(bool first, const Axis& a, const Axis& b) {
  return {first ? a.start : b.start, first ? a.bin : b.bin, first ? a.extent : b.extent, first ? a.grid : b.grid};
}

FRCNN_HD Axis make_axis(float low, float high, float scale, int extent, const Pooling& pooling) {
  const float offset = pooling.aligned ? 0.5f : 0.0f;
  Axis axis;
  axis.start = low * scale - offset;
  float side = (high * scale - offset) - axis.start;
  if (!pooling.aligned) side = side > 1.0f ? side : 1.0f;
  axis.bin = side / float(pooling.bins);
  axis.extent = extent;
  axis.grid = pooling.sampling_ratio;
  if (axis.grid == 0) {
    // At most one sample per pixel of the map: a box far beyond the canvas must not cost more than one that fills it.
    const float wanted = ceilf(side / float(pooling.bins));
    axis.grid = wanted > 0.0f ? (wanted < float(extent) ? int(wanted) : extent) : 0;
  }
  return axis;
}

// box is (x1, y1, x2, y2) in canvas pixels.
FRCNN_HD RoI locate(const Pyramid& pyramid, const Pooling& pooling, const float* box, int image) {
  RoI roi;
  roi.level = -1;
  roi.image = image;
  bool finite = true;
  for (int i = 0; i < 4; ++i) finite = finite && fabsf(box[i]) <= 3.402823466e+38f;
  if (!finite || image < 0 || image >= pyramid.batch) return roi;

  const float width = box[2] - box[0], height = box[3] - box[1];
  const float size = sqrtf((width > 0.0f ? width : 0.0f) * (height > 0.0f ? height : 0.0f));
  roi.level = 0;
  for (int level = 1; level < pyramid.levels; ++level) roi.level += size >= pyramid.start[level];
  const float scale = pyramid.scale[roi.level];
  roi.y = make_axis(box[1], box[3], scale, pyramid.height[roi.level], pooling);
  roi.x = make_axis(box[0], box[2], scale, pyramid.width[roi.level], pooling);
  return roi;
}

// Lower pixel of a sample and the weight of the next one; false where the sample is outside the map and does not count.
FRCNN_HD bool sample(const Axis& axis, int bin, int i, int* low, float* fraction) {
  float position = axis.start + float(bin) * axis.bin + (float(i) + 0.5f) * axis.bin / float(axis.grid);
  if (!(position >= -1.0f && position <= float(axis.extent)))
    return false;  // also false for NaN, from sides that overflow
  if (position < 0.0f) position = 0.0f;
  *low = int(position);
  *fraction = position - float(*low);
  if (*low >= axis.extent - 1) {
    *low = axis.extent - 1;
    *fraction = 0.0f;
  }
  return true;
}

// Adds a weight to a pixel of an ascending list, which can only be one of its last two entries; returns the new length.
FRCNN_HD int add_tap(Tap* taps, int count, int pixel, float weight) {
  for (int i = count - 1; i >= 0 && i >= count - 2; --i) {
    if (taps[i].pixel == pixel) {
      taps[i].weight += weight;
      return count;
    }
  }
  taps[count].pixel = pixel;
  taps[count].weight = weight;
  return count + 1;
}

// Taps of one bin along one axis, ascending; returns their number.
FRCNN_HD int merge_taps(const Axis& axis, int bin, Tap* taps) {
  const float share = 1.0f / float(axis.grid);
  int count = 0;
  for (int k = 0; k < axis.grid; ++k) {
    int low;
    float fraction;
    if (!sample(axis, bin, axis.bin < 0.0f ? axis.grid - 1 - k : k, &low, &fraction)) continue;
    count = add_tap(taps, count, low, (1.0f - fraction) * share);
    if (fraction > 0.0f) count = add_tap(taps, count, low + 1, fraction * share);
  }
  return count;
}

// Whether any bin may have a tap in pixels first..last: may return true without need, never false where one does.
FRCNN_HD bool may_overlap(const Axis& axis, int bins, int first, int last) {
  const float end = axis.start + float(bins) * axis.bin;
  const float low = axis.start < end ? axis.start : end, high = axis.start < end ? end : axis.start;
  return float(last) >= low - 1.0f && float(first) <= high + 1.0f;
}

// Weight of one pixel in one bin along one axis.
FRCNN_HD float weight_at(const Axis& axis, int bin, int pixel) {
  Axis only = axis;
  only.start = axis.start + float(bin) * axis.bin;
  if (!may_overlap(only, 1, pixel - 1, pixel + 1)) return 0.0f;  // a pixel more than needed, for rounding
  const float share = 1.0f / float(axis.grid);
  float weight = 0.0f;
  for (int i = 0; i < axis.grid; ++i) {
    int low;
    float fraction;
    if (!sample(axis, bin, i, &low, &fraction)) continue;
    if (low == pixel) weight += (1.0f - fraction) * share;
    if (low + 1 == pixel) weight += fraction * share;
  }
  return weight;
}

// Capacity for the taps of all bins of an axis: neighboring bins share two pixels at most, and rounding may shift both
// ends of a bin by one more.
constexpr int kTapsBetweenBins = 4;

FRCNN_HD int taps_capacity(int extent, int bins) {
  return extent + kTapsBetweenBins * bins;
}

// Number of a bin in the order of its pixels.
FRCNN_HD int bins_before(const Axis& axis, int bin, int bins) {
  return axis.bin < 0.0f ? bins - 1 - bin : bin;
}

// Offset of a bin's taps within that capacity; the taps of different bins never overlap.
FRCNN_HD int taps_offset(const Axis& axis, int bin, int bins) {
  const float edge = axis.start + float(axis.bin < 0.0f ? bin + 1 : bin) * axis.bin;
  const float last = float(axis.extent - 1);
  return (edge > 0.0f ? int(edge < last ? edge : last) : 0) + kTapsBetweenBins * bins_before(axis, bin, bins);
}

}  // namespace frcnn
