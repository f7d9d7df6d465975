// Non-maximum suppression of one image on a CPU.
//
// Candidates come in order of score, sorted only as far as they are looked at, and each is compared with the boxes that its
// group has kept so far, sixteen at a time. With enough of them, threads first compare a run of candidates with what was
// kept before the run; the run itself is then settled in order. No number of threads changes a result.
#include <algorithm>
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

struct Candidate {
  float x1, y1, x2, y2, due;
  int32_t group, index;
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

// Whether a block of the list, from `block` back over `older` to and with `oldest`, holds a box that drops the candidate. The excess
// rules out nearly all, four blocks per branch; where it does not, the quotient decides.
FRCNN_HD bool is_dropped_by(const Block* blocks, const int32_t* older, int32_t block, int32_t oldest, const Candidate& candidate,
                            float threshold) {
  oldest = oldest > 0 ? oldest : 0;
  while (block >= oldest) {
    const int32_t first = block;
    Floats most = excess(blocks[block], candidate);
    block = older[block];
    for (int i = 1; i < 4 && block >= oldest; ++i, block = older[block]) {
      const Floats more = excess(blocks[block], candidate);
      most = more > most ? more : most;
    }
    if (!any(most >= candidate.due)) continue;
    for (int32_t again = first; again != block; again = older[again])
      if (holds_better(blocks[again], candidate, threshold)) return true;
  }
  return false;
}

FRCNN_CLONES bool is_dropped(const Block* blocks, const int32_t* older, int32_t block, int32_t oldest, const Candidate& candidate,
                             float threshold) {
  return is_dropped_by(blocks, older, block, oldest, candidate, threshold);
}

// The kept boxes of all groups: per group a list of blocks, newest first.
class Kept {
 public:
  explicit Kept(float threshold) : threshold_(threshold) {}

  // A group's number in this image, from 0 on.
  int32_t group(int32_t name) {
    if (name != last_name_ || newest_.empty()) {
      last_name_ = name;
      last_group_ = numbers_.emplace(name, int32_t(newest_.size())).first->second;
      if (last_group_ == int32_t(newest_.size())) {
        newest_.push_back(-1);
        used_.push_back(kLanes);
      }
    }
    return last_group_;
  }

  bool drops(const Candidate& candidate, int32_t oldest) const {
    return is_dropped(blocks_.data(), older_.data(), newest_[candidate.group], oldest, candidate, threshold_);
  }

  void add(const Candidate& c) {
    if (used_[c.group] == kLanes) {
      Block block = {};
      std::fill(block.x1, block.x1 + kLanes, std::numeric_limits<float>::infinity());
      std::fill(block.x2, block.x2 + kLanes, -std::numeric_limits<float>::infinity());
      blocks_.push_back(block);
      older_.push_back(newest_[c.group]);
      newest_[c.group] = int32_t(blocks_.size()) - 1;
      used_[c.group] = 0;
    }
    Block& block = blocks_[newest_[c.group]];
    const int lane = used_[c.group]++;
    block.x1[lane] = c.x1, block.y1[lane] = c.y1, block.x2[lane] = c.x2, block.y2[lane] = c.y2, block.due[lane] = c.due;
  }

  int32_t newest(int32_t group) const { return newest_[group]; }
  int64_t blocks() const { return int64_t(blocks_.size()); }

 private:
  float threshold_;
  std::vector<Block> blocks_;
  // The group's block before each, -1 for none. Apart from the blocks, so that the walk waits for the nearest cache only.
  std::vector<int32_t> older_;
  std::vector<int32_t> newest_, used_;
  std::unordered_map<int32_t, int32_t> numbers_;
  int32_t last_name_ = 0, last_group_ = 0;
};

// Candidates that are looked at together, and the least work that is worth waking threads for, in blocks compared.
constexpr int kRun = 256;
constexpr int64_t kWorthThreads = 16384;

}  // namespace

int nms(const float* boxes, const float* scores, const int32_t* groups, int count, float iou_threshold, int max_outputs, int32_t* indices,
        const ParallelFor& parallel) {
  BestFirst order(scores, count);
  Kept kept(iou_threshold);
  const float share = due_share(iou_threshold);
  Candidate run[kRun];
  bool dropped[kRun];
  int32_t before[kRun];
  int outputs = 0;
  for (int first = 0; first < order.size() && outputs < max_outputs; first += kRun) {
    const int size = std::min(kRun, order.size() - first);
    for (int i = 0; i < size; ++i) {
      const int32_t index = order[first + i];
      const float* box = boxes + 4 * int64_t(index);
      const float due = share * area(box[0], box[1], box[2], box[3]);
      run[i] = {box[0], box[1], box[2], box[3], due, kept.group(groups[index]), index};
      before[i] = kept.newest(run[i].group);
      dropped[i] = false;
    }
    // Where threads have compared with all that was kept before the run, only the group's blocks since then are left.
    const bool ahead = kept.blocks() * size >= kWorthThreads;
    if (ahead) {
      parallel(size, kRun / 8, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) dropped[i] = kept.drops(run[i], 0);
      });
    }
    for (int i = 0; i < size && outputs < max_outputs; ++i) {
      if (dropped[i] || kept.drops(run[i], ahead ? before[i] : 0)) continue;
      kept.add(run[i]);
      indices[outputs++] = run[i].index;
    }
  }
  return outputs;
}

}  // namespace frcnn
