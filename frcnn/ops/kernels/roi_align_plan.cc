// Where RoIs sample: order, geometry, merged taps. Compiled without fused arithmetic, so that a sample on the border falls
// on the same side here, in the reference and on a GPU.
#include <algorithm>

#include "cpu.h"

namespace frcnn {
namespace {

// Rows of this many feature pixels are walked from left to right, one after the other.
constexpr float kBand = 8.0f;

// Level, image, band and column in one ascending number.
uint64_t place(const RoI& roi, int bins) {
  if (roi.level < 0) return ~uint64_t{0};
  auto center = [bins](const Axis& axis) {
    const float middle = axis.start + 0.5f * float(bins) * axis.bin;
    return middle > 0.0f ? std::min(middle, float(axis.extent)) : 0.0f;
  };
  const uint64_t band = uint64_t(center(roi.y) / kBand), column = uint64_t(center(roi.x));
  return uint64_t(roi.level) << 56 | uint64_t(roi.image & 0xffffff) << 32 | (band & 0xffff) << 16 | (column & 0xffff);
}

int64_t capacity(const Axis& axis, int bins) {
  return std::min<int64_t>(2 * int64_t(axis.grid) * bins, taps_capacity(axis.extent, bins));
}

}  // namespace

Plan make_plan(const Pyramid& pyramid, const Pooling& pooling, const float* boxes, const int32_t* box_image, int64_t count,
               const ParallelFor& parallel) {
  Plan plan{pyramid, pooling.bins, {}, {}, {}, {}};
  const int bins = pooling.bins;
  plan.rois.resize(count);
  std::vector<uint64_t> places(count);
  std::vector<int64_t> room(count + 1, 0);
  for (int64_t n = 0; n < count; ++n) {
    const RoI roi = plan.rois[n] = locate(pyramid, pooling, boxes + 4 * n, box_image[n]);
    places[n] = place(roi, bins);
    room[n + 1] = room[n] + (roi.level < 0 ? 0 : capacity(roi.y, bins) + capacity(roi.x, bins));
  }
  plan.order.resize(count);
  for (int64_t n = 0; n < count; ++n) plan.order[n] = int32_t(n);
  std::sort(plan.order.begin(), plan.order.end(),
            [&](int32_t a, int32_t b) { return places[a] != places[b] ? places[a] < places[b] : a < b; });

  plan.taps.resize(room[count]);
  plan.begin.resize(2 * count * (bins + 1));
  parallel(count, 64, [&](int64_t first, int64_t last) {
    for (int64_t n = first; n < last; ++n) {
      if (plan.rois[n].level < 0) continue;
      int64_t end = room[n];
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
