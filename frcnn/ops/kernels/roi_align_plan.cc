// Order, geometry and merged taps of all RoIs. Compiled without fused multiply-add, so that a sample on the border of a
// map falls on the same side here, in the reference and on a GPU.
#include <algorithm>

#include "cpu.h"

namespace frcnn {
namespace {

// RoIs are visited from left to right within bands of this many feature pixels.
constexpr float kBand = 8.0f;

// Sort key: level, image, band and column.
uint64_t position_key(const RoI& roi, int bins) {
  if (roi.level < 0) return ~uint64_t{0};
  auto clipped_center = [bins](const Axis& axis) {
    const float center = axis.start + 0.5f * float(bins) * axis.bin;
    return center > 0.0f ? std::min(center, float(axis.extent)) : 0.0f;
  };
  const uint64_t band = uint64_t(clipped_center(roi.y) / kBand), column = uint64_t(clipped_center(roi.x));
  return uint64_t(roi.level) << 56 | uint64_t(roi.image & 0xffffff) << 32 | (band & 0xffff) << 16 | (column & 0xffff);
}

int64_t capacity(const Axis& axis, int bins) {
  return std::min<int64_t>(2 * int64_t(axis.grid) * bins, taps_capacity(axis.extent, bins));
}

}  // namespace

Plan make_plan(const Pyramid& pyramid, const Pooling& pooling, const float* boxes, const int32_t* box_image,
               int64_t count, const ParallelFor& parallel) {
  Plan plan{pyramid, pooling.bins, {}, {}, {}, {}};
  const int bins = pooling.bins;
  plan.rois.resize(count);
  std::vector<uint64_t> keys(count);
  std::vector<int64_t> offset(count + 1, 0);  // of each RoI's taps
  for (int64_t n = 0; n < count; ++n) {
    const RoI roi = plan.rois[n] = locate(pyramid, pooling, boxes + 4 * n, box_image[n]);
    keys[n] = position_key(roi, bins);
    offset[n + 1] = offset[n] + (roi.level < 0 ? 0 : capacity(roi.y, bins) + capacity(roi.x, bins));
  }
  plan.order.resize(count);
  for (int64_t n = 0; n < count; ++n) plan.order[n] = int32_t(n);
  std::sort(plan.order.begin(), plan.order.end(),
            [&](int32_t a, int32_t b) { return keys[a] != keys[b] ? keys[a] < keys[b] : a < b; });

  plan.taps.resize(offset[count]);
  plan.begin.resize(2 * count * (bins + 1));
  parallel(count, 64, [&](int64_t first, int64_t last) {
    for (int64_t n = first; n < last; ++n) {
      if (plan.rois[n].level < 0) continue;
      int64_t end = offset[n];
      for (int axis = 0; axis < 2; ++axis) {
        int64_t* begin = &plan.begin[(2 * n + axis) * (bins + 1)];
        for (int bin = 0; bin < bins; ++bin) {
          begin[bin] = end;
          end += merge_taps(axis == 0 ? plan.rois[n].y : plan.rois[n].x, bin, plan.taps.data() + end);
        }
        begin[bins] = end;
      }
    }
  });
  return plan;
}

}  // namespace frcnn
