// RoIAlign on a CPU, vectorized over channels.
#include <algorithm>

#include "cpu.h"
#include "vectors.h"

namespace frcnn {
namespace {

struct Taps {
  const Tap *begin, *end;
};

FRCNN_HD Taps bin_taps(const Plan& plan, int64_t roi, int axis, int bin) {
  const int64_t* begin = plan.axis(roi, axis);
  return {plan.taps.data() + begin[bin], plan.taps.data() + begin[bin + 1]};
}

// kVectors * kLanes channels of one bin. A small array with loops of constant length stays in registers. The pixels at
// `ahead` belong to the bin below and are prefetched, because the hardware prefetcher does not follow the jump to
// another row. They may be outside the map, where a prefetch has no effect.
template <int kVectors, class T>
FRCNN_HD void pool_vectors(const T* map, int64_t width, int64_t channels, Taps rows, Taps columns, int64_t ahead,
                           T* pooled) {
  Floats sum[kVectors] = {};
  for (const Tap* y = rows.begin; y != rows.end; ++y) {
    const T* row = map + y->pixel * width * channels;
    for (const Tap* x = columns.begin; x != columns.end; ++x) {
      const T* pixel = row + x->pixel * channels;
      const float weight = y->weight * x->weight;
      for (int v = 0; v < kVectors; ++v) {
        __builtin_prefetch(pixel + ahead + v * kLanes, /*write*/ 0, /*locality: second-level cache*/ 2);
        sum[v] += weight * load(pixel + v * kLanes);
      }
    }
  }
  for (int v = 0; v < kVectors; ++v) store(sum[v], pooled + v * kLanes);
}

template <class T>
FRCNN_HD void pool_channel(const T* map, int64_t width, int64_t channels, Taps rows, Taps columns, T* pooled) {
  float sum = 0.0f;
  for (const Tap* y = rows.begin; y != rows.end; ++y)
    for (const Tap* x = columns.begin; x != columns.end; ++x)
      sum += y->weight * x->weight * to_float(map[(y->pixel * width + x->pixel) * channels]);
  from_float(sum, pooled);
}

template <class T>
FRCNN_HD void pool_roi(const Plan& plan, int64_t n, const T* const* features, T* pooled) {
  const RoI& roi = plan.rois[n];
  const int64_t channels = plan.pyramid.channels, bins = plan.bins;
  T* to = pooled + n * bins * bins * channels;
  if (roi.level < 0) {
    memset(static_cast<void*>(to), 0, bins * bins * channels * sizeof(T));
    return;
  }
  const int64_t height = roi.y.extent, width = roi.x.extent;
  const T* map = features[roi.level] + roi.image * height * width * channels;
  for (int p = 0; p < bins; ++p) {
    const Taps rows = bin_taps(plan, n, 0, p), below = bin_taps(plan, n, 0, p + 1 < bins ? p + 1 : p);
    const bool both_nonempty = rows.begin != rows.end && below.begin != below.end;
    const int64_t ahead = both_nonempty ? int64_t(below.begin->pixel - rows.begin->pixel) * width * channels : 0;
    for (int q = 0; q < bins; ++q, to += channels) {
      const Taps columns = bin_taps(plan, n, 1, q);
      int64_t c = 0;
      for (; c + 8 * kLanes <= channels; c += 8 * kLanes)
        pool_vectors<8>(map + c, width, channels, rows, columns, ahead, to + c);
      for (; c + kLanes <= channels; c += kLanes)
        pool_vectors<1>(map + c, width, channels, rows, columns, ahead, to + c);
      for (; c < channels; ++c) pool_channel(map + c, width, channels, rows, columns, to + c);
    }
  }
}

// Contribution of one row of bins to one row of a feature map's gradient.
struct Contribution {
  int32_t roi, bin;
  float weight;
};

// Contributions to every row of every map, in an order that depends on the boxes only.
struct Rows {
  std::vector<int64_t> first;  // index of the first row of each level
  std::vector<int64_t> begin;  // [row, and one past the last] into contributions
  std::vector<Contribution> contributions;
};

Rows gather_rows(const Plan& plan) {
  Rows rows;
  rows.first.push_back(0);
  for (int level = 0; level < plan.pyramid.levels; ++level)
    rows.first.push_back(rows.first.back() + int64_t(plan.pyramid.batch) * plan.pyramid.height[level]);
  rows.begin.assign(rows.first.back() + 1, 0);
  auto each = [&](auto&& visit) {
    for (int32_t n : plan.order) {
      const RoI& roi = plan.rois[n];
      if (roi.level < 0) continue;
      const int64_t first = rows.first[roi.level] + int64_t(roi.image) * roi.y.extent;
      for (int p = 0; p < plan.bins; ++p) {
        const Taps taps = bin_taps(plan, n, 0, p);
        for (const Tap* y = taps.begin; y != taps.end; ++y) visit(first + y->pixel, Contribution{n, p, y->weight});
      }
    }
  };
  each([&](int64_t row, const Contribution&) { ++rows.begin[row + 1]; });
  for (size_t row = 1; row < rows.begin.size(); ++row) rows.begin[row] += rows.begin[row - 1];
  rows.contributions.resize(rows.begin.back());
  std::vector<int64_t> next(rows.begin.begin(), rows.begin.end() - 1);
  each([&](int64_t row, const Contribution& contribution) { rows.contributions[next[row]++] = contribution; });
  return rows;
}

// kVectors * kLanes channels: sums bins first..last of one RoI and column, and adds them to its pixels of the row.
template <int kVectors, class T>
FRCNN_HD void scatter_vectors(const Contribution* first, const Contribution* last, int64_t bin_row, int64_t channels,
                              Taps columns, const T* upstream, float* row) {
  Floats sum[kVectors] = {};
  for (const Contribution* from = first; from != last; ++from)
    for (int v = 0; v < kVectors; ++v) sum[v] += from->weight * load(upstream + from->bin * bin_row + v * kLanes);
  for (const Tap* x = columns.begin; x != columns.end; ++x) {
    float* pixel = row + x->pixel * channels;
    for (int v = 0; v < kVectors; ++v) store(load(pixel + v * kLanes) + x->weight * sum[v], pixel + v * kLanes);
  }
}

template <class T>
FRCNN_HD void scatter_channel(const Contribution* first, const Contribution* last, int64_t bin_row, int64_t channels,
                              Taps columns, const T* upstream, float* row) {
  float sum = 0.0f;
  for (const Contribution* from = first; from != last; ++from)
    sum += from->weight * to_float(upstream[from->bin * bin_row]);
  for (const Tap* x = columns.begin; x != columns.end; ++x) row[x->pixel * channels] += x->weight * sum;
}

// Adds all contributions to a row of a map, [W, C] float32.
template <class T>
FRCNN_HD void scatter_row(const Plan& plan, const Contribution* from, const Contribution* end, const T* upstream,
                          float* row) {
  const int64_t channels = plan.pyramid.channels, bins = plan.bins;
  while (from != end) {
    const int32_t n = from->roi;
    const Contribution* last = from;
    while (last != end && last->roi == n) ++last;
    for (int q = 0; q < bins; ++q) {
      const Taps columns = bin_taps(plan, n, 1, q);
      if (columns.begin == columns.end) continue;
      const T* bin = upstream + (n * bins * bins + q) * channels;
      const int64_t bin_row = bins * channels;
      int64_t c = 0;
      for (; c + 8 * kLanes <= channels; c += 8 * kLanes)
        scatter_vectors<8>(from, last, bin_row, channels, columns, bin + c, row + c);
      for (; c + kLanes <= channels; c += kLanes)
        scatter_vectors<1>(from, last, bin_row, channels, columns, bin + c, row + c);
      for (; c < channels; ++c) scatter_channel(from, last, bin_row, channels, columns, bin + c, row + c);
    }
    from = last;
  }
}

// Cloned once per instruction set; everything above is inlined into these.
FRCNN_CLONES void pool(const Plan& plan, int64_t n, const float* const* features, float* pooled) {
  pool_roi(plan, n, features, pooled);
}
FRCNN_CLONES void pool(const Plan& plan, int64_t n, const BFloat16* const* features, BFloat16* pooled) {
  pool_roi(plan, n, features, pooled);
}
FRCNN_CLONES void pool(const Plan& plan, int64_t n, const Float16* const* features, Float16* pooled) {
  pool_roi(plan, n, features, pooled);
}
FRCNN_CLONES void scatter(const Plan& plan, const Contribution* from, const Contribution* end, const float* upstream,
                          float* row) {
  scatter_row(plan, from, end, upstream, row);
}
FRCNN_CLONES void scatter(const Plan& plan, const Contribution* from, const Contribution* end, const BFloat16* upstream,
                          float* row) {
  scatter_row(plan, from, end, upstream, row);
}
FRCNN_CLONES void scatter(const Plan& plan, const Contribution* from, const Contribution* end, const Float16* upstream,
                          float* row) {
  scatter_row(plan, from, end, upstream, row);
}

// Float32 gradients are accumulated in place, other dtypes in a float32 row that is rounded once.
float* row_of_sums(float* gradient, int64_t, std::vector<float>*) {
  return gradient;
}
template <class T>
float* row_of_sums(T*, int64_t size, std::vector<float>* sums) {
  sums->resize(size);
  return sums->data();
}

void round_row(const float*, int64_t, float*) {}
template <class T>
void round_row(const float* sums, int64_t size, T* gradient) {
  for (int64_t i = 0; i < size; ++i) from_float(sums[i], gradient + i);
}

template <class T>
void forward(const Plan& plan, const void* const* features, void* pooled, const ParallelFor& parallel) {
  parallel(plan.order.size(), 16, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      pool(plan, plan.order[i], reinterpret_cast<const T* const*>(features), static_cast<T*>(pooled));
  });
}

// Each thread owns rows of the gradient: no atomics, and a fixed order of summation.
template <class T>
void backward(const Plan& plan, const void* upstream, void* const* gradients, const ParallelFor& parallel) {
  const Rows rows = gather_rows(plan);
  parallel(rows.first.back(), 4, [&](int64_t first, int64_t last) {
    std::vector<float> sums;
    int level = 0;
    for (int64_t index = first; index < last; ++index) {
      while (index >= rows.first[level + 1]) ++level;
      const int64_t size = int64_t(plan.pyramid.width[level]) * plan.pyramid.channels;
      T* gradient = static_cast<T*>(gradients[level]) + (index - rows.first[level]) * size;
      float* row = row_of_sums(gradient, size, &sums);
      std::fill(row, row + size, 0.0f);
      const Contribution* contributions = rows.contributions.data();
      scatter(plan, contributions + rows.begin[index], contributions + rows.begin[index + 1],
              static_cast<const T*>(upstream), row);
      round_row(row, size, gradient);
    }
  });
}

}  // namespace

void roi_align_forward(const Plan& plan, DType dtype, const void* const* features, void* pooled,
                       const ParallelFor& parallel) {
  if (dtype == DType::kFloat32) return forward<float>(plan, features, pooled, parallel);
  if (dtype == DType::kBFloat16) return forward<BFloat16>(plan, features, pooled, parallel);
  forward<Float16>(plan, features, pooled, parallel);
}

void roi_align_backward(const Plan& plan, DType dtype, const void* upstream, void* const* gradients,
                        const ParallelFor& parallel) {
  if (dtype == DType::kFloat32) return backward<float>(plan, upstream, gradients, parallel);
  if (dtype == DType::kBFloat16) return backward<BFloat16>(plan, upstream, gradients, parallel);
  backward<Float16>(plan, upstream, gradients, parallel);
}

}  // namespace frcnn
