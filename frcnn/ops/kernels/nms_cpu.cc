// Non-maximum suppression of one image on a CPU.
//
// Candidates come in order of score, sorted only as far as they are looked at, and each is compared with those boxes that its
// group has kept so far whose middle is near enough for the threshold, sixteen at a time. With enough of them, threads first
// compare a run of candidates with what was kept before the run; the run itself is then settled in order. No number of
// threads changes a result.
#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>

#include "cpu.h"
#include "vectors.h"

namespace frcnn {
namespace {

// Best-first order of the candidates, in buckets of equal width in the float's bits; a bucket is sorted when it is reached.
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

  // Index of the i-th best; i must not skip ahead.
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

// Sixteen kept boxes of one group. Lanes not yet used hold a box that overlaps nothing.
struct alignas(64) Block {
  float x1[kLanes], y1[kLanes], x2[kLanes], y2[kLanes];
  float due[kLanes];  // the box's part of the shared area that drops a candidate
};

// A candidate is compared with what the lists first_list..last_list keep, and is kept in `list`.
struct Candidate {
  float x1, y1, x2, y2, due;
  int32_t list, first_list, last_list, index;
};

// IoU > t is shared > t / (1 + t) * (area + area). This share of an area is a little less, whatever rounding does.
float due_share(float threshold) {
  return 0.99999f * threshold / (1.0f + threshold);
}

// How far the shared areas exceed the kept boxes' parts. Wrong only where the boxes do not overlap, and then not positive.
FRCNN_HD Floats excess(const Block& kept, const Candidate& c) {
  const Floats zero = {};
  const Floats x1 = load(kept.x1), y1 = load(kept.y1), x2 = load(kept.x2), y2 = load(kept.y2);
  const Floats u1 = zero + c.x1, v1 = zero + c.y1, u2 = zero + c.x2, v2 = zero + c.y2;
  const Floats width = (x2 < u2 ? x2 : u2) - (x1 > u1 ? x1 : u1);
  const Floats height = (y2 < v2 ? y2 : v2) - (y1 > v1 ? y1 : v1);
  return (width > zero ? width : zero) * height - load(kept.due);
}

// torchvision's quotient.
FRCNN_HD bool holds_better(const Block& kept, const Candidate& c, float threshold) {
  const Floats zero = {};
  const Floats x1 = load(kept.x1), y1 = load(kept.y1), x2 = load(kept.x2), y2 = load(kept.y2);
  const auto both = intersect<Floats>(x1, y1, x2, y2, area(x1, y1, x2, y2), zero + c.x1, zero + c.y1, zero + c.x2, zero + c.y2,
                                      zero + area(c.x1, c.y1, c.x2, c.y2));
  return any(both.shared / both.either > threshold);
}

// Whether a list holds a box that drops the candidate, from its newest block to the first one older than `since`. The excess
// rules out nearly all, four blocks per branch; where it does not, the quotient decides.
FRCNN_HD bool list_drops(const Block* blocks, const int32_t* older, int32_t block, int32_t since, const Candidate& candidate,
                         float threshold) {
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
    if (any(most >= candidate.due))
      for (int32_t again = first; again != block; again = older[again])
        if (holds_better(blocks[again], candidate, threshold)) return true;
    if (last < since) return false;
  }
  return false;
}

FRCNN_CLONES bool is_dropped(const Block* blocks, const int32_t* older, const int32_t* newest, int32_t since, const Candidate& candidate,
                             float threshold) {
  for (int32_t list = candidate.first_list; list <= candidate.last_list; ++list)
    if (list_drops(blocks, older, newest[list], since, candidate, threshold)) return true;
  return false;
}

// Which kept boxes a candidate has to be compared with: the image's width in columns, a box belonging to that of its middle.
//
// With IoU > t both widths are below 1/t of each other, the shared width is above t of the larger one, and so the middles are
// less than reach * width apart, where reach is the larger of 1 - t and (1/t - 1) / 2.
class Columns {
 public:
  Columns(const float* boxes, const float* scores, int count, float threshold, int max_outputs)
      : number_(std::min({std::min(max_outputs, count) / kBoxesPerColumn, kMostColumns, kMostLists / std::max(count, 1)})),
        reach_(std::max(1.0f - threshold, 0.5f * (1.0f / threshold - 1.0f)) + 0.001f) {
    float high = -std::numeric_limits<float>::max();
    low_ = -high;
    double widths = 0.0;
    int64_t boxes_seen = 0;
    for (int i = 0; i < count && number_ > 1; ++i) {
      const float* box = boxes + 4 * int64_t(i);
      const float place = middle(box);
      if (!is_candidate(scores[i]) || !std::isfinite(place)) continue;
      low_ = std::min(low_, place);
      high = std::max(high, place);
      widths += std::fabs(box[2] - box[0]);
      ++boxes_seen;
    }
    // More columns than these a candidate would only look through one by one.
    const double most = kColumnsPerReach * (double(high) - low_) * double(boxes_seen) / (double(reach_) * widths);
    if (!(most >= number_)) number_ = most > 1.0 ? int(most) : 1;
    per_pixel_ = number_ > 1 ? float(number_) / (high - low_) : 0.0f;
  }

  int number() const { return number_; }

  // The column of the box's middle, and those where boxes that it could drop or that could drop it have theirs.
  void of(const float* box, int32_t* own, int32_t* first, int32_t* last) const {
    const float place = middle(box);
    // Beside the reach, what rounding may have done to both middles.
    const float reach = reach_ * (box[2] - box[0]) + 1e-6f * (std::fabs(box[0]) + std::fabs(box[2]));
    *own = column(place), *first = column(place - reach), *last = column(place + reach);
  }

 private:
  static constexpr int kBoxesPerColumn = 64, kMostColumns = 128, kColumnsPerReach = 4;
  static constexpr int kMostLists = 1 << 22;  // where every candidate is a group of its own

  static float middle(const float* box) { return 0.5f * box[0] + 0.5f * box[2]; }
  // Never falls where `place` rises. Boxes that are not finite overlap nothing, so that their column is of no matter.
  int32_t column(float place) const {
    const float number = (place - low_) * per_pixel_;
    return number > 0.0f ? int32_t(std::min(number, float(number_ - 1))) : 0;
  }

  int number_;
  float reach_, low_ = 0.0f, per_pixel_ = 0.0f;
};

// The kept boxes of all groups: a list of blocks, newest first, for each column of each group.
class Kept {
 public:
  Kept(float threshold, int columns) : threshold_(threshold), columns_(columns) {}

  // Number of a group's first list.
  int32_t first_list(int32_t name) {
    if (name != last_name_ || newest_.empty()) {
      last_name_ = name;
      last_list_ = numbers_.emplace(name, int32_t(newest_.size())).first->second;
      if (last_list_ == int32_t(newest_.size())) {
        newest_.resize(newest_.size() + columns_, -1);
        used_.resize(used_.size() + columns_, kLanes);
      }
    }
    return last_list_;
  }

  // Whether a box drops the candidate, of those kept since there were `since` blocks and maybe of some before.
  bool drops(const Candidate& candidate, int64_t since) const {
    return is_dropped(blocks_.data(), older_.data(), newest_.data(), int32_t(since), candidate, threshold_);
  }

  void add(const Candidate& c) {
    // A box without a finite area drops nothing, but its NaN would hide what others of its lane drop.
    if (!std::isfinite(c.due)) return;
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
    block.x1[lane] = c.x1, block.y1[lane] = c.y1, block.x2[lane] = c.x2, block.y2[lane] = c.y2, block.due[lane] = c.due;
  }

  int64_t blocks() const { return int64_t(blocks_.size()); }

 private:
  float threshold_;
  int columns_;
  std::vector<Block> blocks_;
  // The list's block before each, -1 for none. Apart from the blocks, so that the walk waits for the nearest cache only.
  std::vector<int32_t> older_;
  std::vector<int32_t> newest_, used_;
  std::unordered_map<int32_t, int32_t> numbers_;
  int32_t last_name_ = 0, last_list_ = 0;
};

// Candidates that are looked at together, and the least work that is worth waking threads for, in blocks compared.
constexpr int kRun = 256;
constexpr int64_t kWorthThreads = 16384;

}  // namespace

int nms(const float* boxes, const float* scores, const int32_t* groups, int count, float iou_threshold, int max_outputs, int32_t* indices,
        const ParallelFor& parallel) {
  BestFirst order(scores, count);
  const Columns columns(boxes, scores, count, iou_threshold, max_outputs);
  Kept kept(iou_threshold, columns.number());
  const float share = due_share(iou_threshold);
  Candidate run[kRun];
  bool dropped[kRun];
  int outputs = 0;
  for (int first = 0; first < order.size() && outputs < max_outputs; first += kRun) {
    const int size = std::min(kRun, order.size() - first);
    int64_t lists = 0;
    for (int i = 0; i < size; ++i) {
      const int32_t index = order[first + i];
      const float* box = boxes + 4 * int64_t(index);
      const float due = share * area(box[0], box[1], box[2], box[3]);
      int32_t own, from, to;
      columns.of(box, &own, &from, &to);
      const int32_t list = kept.first_list(groups[index]);
      run[i] = {box[0], box[1], box[2], box[3], due, list + own, list + from, list + to, index};
      dropped[i] = false;
      lists += to - from + 1;
    }
    // Where threads have compared with all that was kept before the run, only what it keeps itself is left.
    const int64_t before = kept.blocks();
    const bool ahead = before * lists / columns.number() >= kWorthThreads;
    if (ahead) {
      parallel(size, kRun / 8, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) dropped[i] = kept.drops(run[i], 0);
      });
    }
    for (int i = 0; i < size && outputs < max_outputs; ++i) {
      if (dropped[i] || kept.drops(run[i], ahead ? before : 0)) continue;
      kept.add(run[i]);
      indices[outputs++] = run[i].index;
    }
  }
  return outputs;
}

}  // namespace frcnn
