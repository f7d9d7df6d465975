// Non-maximum suppression of one image on a CPU.
//
// Candidates are visited in order of score, sorted lazily. Each is compared, sixteen at a time, with the kept boxes of
// its group whose center is close enough to exceed the threshold. With enough work, threads first compare a tile of
// candidates with the boxes kept before the tile; the tile itself is then processed in order. The result does not
// depend on the number of threads.
#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>

#include "cpu.h"
#include "vectors.h"

namespace frcnn {
namespace {

// Candidates in descending order of score. Bucket sort on the bits of the score; a bucket is sorted when it is reached.
class BestFirst {
 public:
  BestFirst(const float* scores, int count) {
    std::vector<uint64_t> keys;
    keys.reserve(count);
    uint64_t low = ~uint64_t{0}, high = 0;
    for (int i = 0; i < count; ++i) {
      if (!is_candidate(scores[i])) continue;
      const uint64_t key = order_key(scores[i], i);
      low = std::min(low, key);
      high = std::max(high, key);
      keys.push_back(key);
    }
    keys_.resize(keys.size());
    if (keys.empty()) return;
    int shift = 0;
    while (((high - low) >> shift) >= kBuckets) ++shift;
    for (uint64_t key : keys) ++begin_[((key - low) >> shift) + 1];
    for (int b = 0; b < kBuckets; ++b) begin_[b + 1] += begin_[b];
    std::vector<int32_t> next(begin_, begin_ + kBuckets);
    for (uint64_t key : keys) keys_[next[(key - low) >> shift]++] = key;
  }

  int size() const { return int(keys_.size()); }

  // Index of the i-th best candidate; i must not decrease or skip.
  int operator[](int i) {
    for (; i >= sorted_; ++bucket_) {
      std::sort(keys_.begin() + begin_[bucket_], keys_.begin() + begin_[bucket_ + 1]);
      sorted_ = begin_[bucket_ + 1];
    }
    return int(uint32_t(keys_[i]));
  }

 private:
  static constexpr int kBuckets = 2048;
  std::vector<uint64_t> keys_;
  int32_t begin_[kBuckets + 1] = {};
  int sorted_ = 0, bucket_ = 0;
};

// Sixteen kept boxes of one list. Unused lanes hold a box that overlaps nothing.
struct alignas(64) Block {
  float x1[kLanes], y1[kLanes], x2[kLanes], y2[kLanes];
  float share[kLanes];  // the box's part of the least intersection that suppresses a candidate
};

// A candidate is compared with the boxes of first_list..last_list, and appended to `list` if it is kept.
struct Candidate {
  float x1, y1, x2, y2, share;
  int32_t list, first_list, last_list, index;
};

// IoU > t is equivalent to intersection > t / (1 + t) * (area1 + area2). The factor is slightly smaller, to be safe
// against rounding.
float area_factor(float threshold) {
  return 0.99999f * threshold / (1.0f + threshold);
}

// Intersection minus the kept boxes' share. Inexact only where the boxes do not overlap, and then not positive.
FRCNN_HD Floats excess(const Block& kept, const Candidate& c) {
  const Floats zero = {};
  const Floats x1 = load(kept.x1), y1 = load(kept.y1), x2 = load(kept.x2), y2 = load(kept.y2);
  const Floats u1 = zero + c.x1, v1 = zero + c.y1, u2 = zero + c.x2, v2 = zero + c.y2;
  const Floats width = (x2 < u2 ? x2 : u2) - (x1 > u1 ? x1 : u1);
  const Floats height = (y2 < v2 ? y2 : v2) - (y1 > v1 ? y1 : v1);
  return (width > zero ? width : zero) * height - load(kept.share);
}

// The exact test, with torchvision's order of operations.
FRCNN_HD bool block_suppresses(const Block& kept, const Candidate& c, float threshold) {
  const Floats zero = {};
  const Floats x1 = load(kept.x1), y1 = load(kept.y1), x2 = load(kept.x2), y2 = load(kept.y2);
  const auto overlap = intersect<Floats>(x1, y1, x2, y2, area(x1, y1, x2, y2), zero + c.x1, zero + c.y1, zero + c.x2,
                                         zero + c.y2, zero + area(c.x1, c.y1, c.x2, c.y2));
  return any(overlap.intersection / overlap.union_area > threshold);
}

// Whether a list holds a box that suppresses the candidate, from its newest block to the first one older than `since`.
// The excess rules out nearly all of them, four blocks per branch; otherwise the exact IoU decides.
FRCNN_HD bool list_suppresses(const Block* blocks, const int32_t* older, int32_t block, int32_t since,
                              const Candidate& candidate, float threshold) {
  while (block >= 0) {
    const int32_t first = block;
    int32_t last = block;
    Floats most = excess(blocks[block], candidate);
    block = older[block];
    for (int i = 1; i < 4 && block >= 0 && last >= since; ++i, block = older[block]) {
      last = block;
      const Floats more = excess(blocks[block], candidate);
      most = more > most ? more : most;
    }
    if (any(most >= candidate.share))
      for (int32_t again = first; again != block; again = older[again])
        if (block_suppresses(blocks[again], candidate, threshold)) return true;
    if (last < since) return false;
  }
  return false;
}

FRCNN_CLONES bool is_suppressed(const Block* blocks, const int32_t* older, const int32_t* newest, int32_t since,
                                const Candidate& candidate, float threshold) {
  for (int32_t list = candidate.first_list; list <= candidate.last_list; ++list)
    if (list_suppresses(blocks, older, newest[list], since, candidate, threshold)) return true;
  return false;
}

// Spatial index over kept boxes: the image is divided into columns, and a box belongs to the column of its center.
//
// IoU > t implies that the ratio of the widths is between t and 1/t and that the overlap is more than t of the larger
// width. So the centers are less than reach * width apart, with reach = max(1 - t, (1/t - 1) / 2).
class Columns {
 public:
  Columns(const float* boxes, const float* scores, int count, float threshold, int max_outputs)
      : count_(
            std::min({std::min(max_outputs, count) / kBoxesPerColumn, kMostColumns, kMostLists / std::max(count, 1)})),
        reach_(std::max(1.0f - threshold, 0.5f * (1.0f / threshold - 1.0f)) + 0.001f) {
    float high = -std::numeric_limits<float>::max();
    low_ = -high;
    double widths = 0.0;
    int64_t boxes_seen = 0;
    for (int i = 0; i < count && count_ > 1; ++i) {
      const float* box = boxes + 4 * int64_t(i);
      const float x = center(box);
      if (!is_candidate(scores[i]) || !std::isfinite(x)) continue;
      low_ = std::min(low_, x);
      high = std::max(high, x);
      widths += std::fabs(box[2] - box[0]);
      ++boxes_seen;
    }
    // With more columns, a candidate would only visit more of them.
    const double most = kColumnsPerReach * (double(high) - low_) * double(boxes_seen) / (double(reach_) * widths);
    if (!(most >= count_)) count_ = most > 1.0 ? int(most) : 1;
    per_pixel_ = count_ > 1 ? float(count_) / (high - low_) : 0.0f;
  }

  int count() const { return count_; }

  // Column of the box's center, and the range of columns whose boxes can overlap it enough.
  void of(const float* box, int32_t* own, int32_t* first, int32_t* last) const {
    const float x = center(box);
    // The second term covers rounding of both centers.
    const float reach = reach_ * (box[2] - box[0]) + 1e-6f * (std::fabs(box[0]) + std::fabs(box[2]));
    *own = column(x), *first = column(x - reach), *last = column(x + reach);
  }

 private:
  static constexpr int kBoxesPerColumn = 64, kMostColumns = 128, kColumnsPerReach = 4;
  static constexpr int kMostLists = 1 << 22;  // bounds memory where every candidate has its own group

  static float center(const float* box) { return 0.5f * box[0] + 0.5f * box[2]; }
  // Monotonic in `x`. Non-finite boxes overlap nothing, so their column does not matter.
  int32_t column(float x) const {
    const float column = (x - low_) * per_pixel_;
    return column > 0.0f ? int32_t(std::min(column, float(count_ - 1))) : 0;
  }

  int count_;
  float reach_, low_ = 0.0f, per_pixel_ = 0.0f;
};

// Kept boxes of all groups: for each column of each group a linked list of blocks, newest first.
class Kept {
 public:
  Kept(float threshold, int columns) : threshold_(threshold), columns_(columns) {}

  // Index of a group's first list.
  int32_t first_list(int32_t group) {
    if (group != last_group_ || newest_.empty()) {
      last_group_ = group;
      last_list_ = lists_.emplace(group, int32_t(newest_.size())).first->second;
      if (last_list_ == int32_t(newest_.size())) {
        newest_.resize(newest_.size() + columns_, -1);
        used_.resize(used_.size() + columns_, kLanes);
      }
    }
    return last_list_;
  }

  // Whether a kept box suppresses the candidate. Blocks older than `since` need not be compared.
  bool suppresses(const Candidate& candidate, int64_t since) const {
    return is_suppressed(blocks_.data(), older_.data(), newest_.data(), int32_t(since), candidate, threshold_);
  }

  void add(const Candidate& c) {
    // A box without a finite area suppresses nothing, but its NaN would mask other boxes in the comparison.
    if (!std::isfinite(c.share)) return;
    if (used_[c.list] == kLanes) {
      Block block = {};
      std::fill(block.x1, block.x1 + kLanes, std::numeric_limits<float>::infinity());
      std::fill(block.x2, block.x2 + kLanes, -std::numeric_limits<float>::infinity());
      blocks_.push_back(block);
      older_.push_back(newest_[c.list]);
      newest_[c.list] = int32_t(blocks_.size()) - 1;
      used_[c.list] = 0;
    }
    Block& block = blocks_[newest_[c.list]];
    const int lane = used_[c.list]++;
    block.x1[lane] = c.x1, block.y1[lane] = c.y1, block.x2[lane] = c.x2, block.y2[lane] = c.y2,
    block.share[lane] = c.share;
  }

  int64_t blocks() const { return int64_t(blocks_.size()); }

 private:
  float threshold_;
  int columns_;
  std::vector<Block> blocks_;
  // Previous block of the list, -1 for none. Stored apart from the blocks, so that the walk stays in the L1 cache.
  std::vector<int32_t> older_;
  std::vector<int32_t> newest_, used_;
  std::unordered_map<int32_t, int32_t> lists_;
  int32_t last_group_ = 0, last_list_ = 0;
};

constexpr int kTile = 256;  // candidates
// Least number of block comparisons that is worth using several threads for.
constexpr int64_t kMinParallelWork = 16384;

}  // namespace

int nms(const float* boxes, const float* scores, const int32_t* groups, int count, float iou_threshold, int max_outputs,
        int32_t* indices, const ParallelFor& parallel) {
  BestFirst order(scores, count);
  const Columns columns(boxes, scores, count, iou_threshold, max_outputs);
  Kept kept(iou_threshold, columns.count());
  const float factor = area_factor(iou_threshold);
  Candidate tile[kTile];
  bool suppressed[kTile];
  int outputs = 0;
  for (int first = 0; first < order.size() && outputs < max_outputs; first += kTile) {
    const int size = std::min(kTile, order.size() - first);
    int64_t lists = 0;
    for (int i = 0; i < size; ++i) {
      const int32_t index = order[first + i];
      const float* box = boxes + 4 * int64_t(index);
      const float share = factor * area(box[0], box[1], box[2], box[3]);
      int32_t own, from, to;
      columns.of(box, &own, &from, &to);
      const int32_t list = kept.first_list(groups[index]);
      tile[i] = {box[0], box[1], box[2], box[3], share, list + own, list + from, list + to, index};
      suppressed[i] = false;
      lists += to - from + 1;
    }
    // After the parallel comparison with all earlier boxes, only boxes kept in this tile remain to be compared.
    const int64_t before = kept.blocks();
    const bool parallelize = before * lists / columns.count() >= kMinParallelWork;
    if (parallelize) {
      parallel(size, kTile / 8, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) suppressed[i] = kept.suppresses(tile[i], 0);
      });
    }
    for (int i = 0; i < size && outputs < max_outputs; ++i) {
      if (suppressed[i] || kept.suppresses(tile[i], parallelize ? before : 0)) continue;
      kept.add(tile[i]);
      indices[outputs++] = tile[i].index;
    }
  }
  return outputs;
}

}  // namespace frcnn
