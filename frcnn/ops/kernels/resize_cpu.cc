// The bilinear resize on a CPU, in one pass over the image, with the values of TensorFlow's ResizeBilinear. For results
// in uint8, 0.5 is added before it and the fraction dropped after it.
//
// An output row is a blend of two rows that are resized horizontally before. These are kept, since the next output row
// usually needs one or both of them again. Nothing may be fused (-ffp-contract=off): a rounding decides a pixel.
#include <cmath>
#include <vector>

#include "cpu.h"
#include "resize_columns.h"
#include "resize_rows.h"

namespace frcnn {
namespace {

// Positions first, first + 1, ... of an axis of `size` pixels that becomes `resized`. Where the image is flipped, they
// are computed in the flipped image, so that results equal those of a flipped copy.
std::vector<Position> make_positions(int size, int resized, int first, int count, bool flip) {
  const float scale = float(size) / float(resized);
  std::vector<Position> positions(count);
  for (int i = 0; i < count; ++i) {
    const float at = (float(first + i) + 0.5f) * scale - 0.5f, whole = std::floor(at);
    const int high = std::min(int(std::ceil(at)), size - 1), low = std::min(std::max(int(whole), 0), high);
    positions[i] = {flip ? size - 1 - low : low, flip ? size - 1 - high : high, at - whole};
  }
  return positions;
}

FRCNN_CLONES void widen(const uint8_t* from, int64_t count, float added, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = float(from[i]) + added;
}

template <bool kReverse>
FRCNN_HD void blend_pixels_inlined(const float* row, const Position* columns, int count, float* to) {
  for (int x = 0; x < count; ++x) {
    const FloatPixel low = load_pixel<FloatPixel>(row + kChannels * columns[x].low);
    const FloatPixel high = load_pixel<FloatPixel>(row + kChannels * columns[x].high);
    store_pixel(ordered(low + (high - low) * columns[x].fraction, kReverse), to + kChannels * x);
  }
}

FRCNN_CLONES void blend_pixels(const float* row, const Position* columns, int count, bool reverse, float* to) {
  if (reverse) {
    blend_pixels_inlined<true>(row, columns, count, to);
  } else {
    blend_pixels_inlined<false>(row, columns, count, to);
  }
}

FRCNN_CLONES void blend_rows(const float* low, const float* high, float fraction, int64_t count, uint8_t* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = uint8_t(int32_t(low[i] + (high[i] - low[i]) * fraction));
}

// mean and inverse_std: of each value of a row.
FRCNN_CLONES void blend_and_normalize_rows(const float* low, const float* high, float fraction, int64_t count,
                                           const float* mean, const float* inverse_std, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = (low[i] + (high[i] - low[i]) * fraction - mean[i]) * inverse_std[i];
}

FRCNN_CLONES void copy_reversed(const uint8_t* from, int64_t pixels, uint8_t* to) {
  for (int64_t i = 0; i < kChannels * pixels; i += kChannels) {
    const uint8_t first = from[i], second = from[i + 1], third = from[i + 2];
    to[i] = third, to[i + 1] = second, to[i + 2] = first;
  }
}

// The size stays the same: nothing to compute, which is what an image that is already resized needs.
void copy(const ResizeCall& call) {
  const int columns = visible_columns(call);
  fill_canvas(call, call.canvas, [&](int y, uint8_t* to) {
    const int row = call.flip_vertically ? call.height - 1 - call.top - y : call.top + y;
    const uint8_t* from = source_row(call, row) + kChannels * call.left;
    if (call.reverse_channels) {
      copy_reversed(from, columns, to);
    } else {
      memcpy(to, from, kChannels * columns);
    }
  });
}

// Resizes rows horizontally.
class Columns {
 public:
  explicit Columns(const ResizeCall& call)
      : positions_(
            make_positions(call.width, call.resized_width, call.left, visible_columns(call), call.flip_horizontally)),
        reverse_(call.reverse_channels) {
    if (has_wide_permutations()) blocks_ = make_blocks(positions_, reverse_);
  }

  // A source row ends with kRowPadding more values, a resized one has resized_values().
  void resize(const float* row, float* to) const {
    if (blocks_.empty()) {
      blend_pixels(row, positions_.data(), int(positions_.size()), reverse_, to);
    } else {
      blend_blocks(row, blocks_.data(), blocks_.size(), to);
    }
  }

  size_t resized_values() const { return kChannels * positions_.size() + kRowPadding; }

 private:
  std::vector<Position> positions_;
  std::vector<Block> blocks_;
  bool reverse_;
};

// The last two source rows that were resized horizontally.
class ResizedRows {
 public:
  ResizedRows(const ResizeCall& call, float added)
      : call_(call), added_(added), columns_(call), wide_(kChannels * call.width + kRowPadding) {
    for (std::vector<float>& row : rows_) row.resize(columns_.resized_values());
  }

  // Row y; the row `kept` is not replaced.
  const float* get(int y, int kept) {
    for (int slot : {0, 1})
      if (held_[slot] == y) return rows_[slot].data();
    const int slot = held_[0] == kept ? 1 : 0;
    widen(source_row(call_, y), kChannels * call_.width, added_, wide_.data());
    columns_.resize(wide_.data(), rows_[slot].data());
    held_[slot] = y;
    return rows_[slot].data();
  }

 private:
  const ResizeCall& call_;
  const float added_;
  const Columns columns_;
  std::vector<float> wide_, rows_[2];
  int held_[2] = {-1, -1};
};

// Calls blend(low, high, fraction, to) for each row of the canvas with its two resized rows.
template <class T, class Blend>
void resize_bilinear(const ResizeCall& call, float added, T* canvas, const Blend& blend) {
  const auto positions =
      make_positions(call.height, call.resized_height, call.top, visible_rows(call), call.flip_vertically);
  ResizedRows rows(call, added);
  fill_canvas(call, canvas, [&](int y, T* to) {
    const Position& at = positions[y];
    const float* low = rows.get(at.low, at.high);
    blend(low, rows.get(at.high, at.low), at.fraction, to);
  });
}

void resize_bilinear(const ResizeCall& call) {
  const int64_t values = int64_t{kChannels} * visible_columns(call);
  if (call.canvas != nullptr) {
    resize_bilinear(call, 0.5f, call.canvas, [=](const float* low, const float* high, float fraction, uint8_t* to) {
      blend_rows(low, high, fraction, values, to);
    });
    return;
  }
  std::vector<float> mean(values), inverse_std(values);
  for (int64_t i = 0; i < values; ++i) {
    mean[i] = call.mean[i % kChannels];
    inverse_std[i] = call.inverse_std[i % kChannels];
  }
  resize_bilinear(call, 0.0f, call.normalized, [&](const float* low, const float* high, float fraction, float* to) {
    blend_and_normalize_rows(low, high, fraction, values, mean.data(), inverse_std.data(), to);
  });
}

}  // namespace

void resize_to_canvas(const ResizeCall& call) {
  const bool whole = call.extent_height == call.height && call.extent_width == call.width;
  const bool same_size = call.height == call.resized_height && call.width == call.resized_width;
  if (call.canvas != nullptr && whole && same_size && !call.flip_horizontally) {
    copy(call);
  } else if (call.filter == ResizeFilter::kBilinear) {
    resize_bilinear(call);
  } else {
    resize_antialiased(call);
  }
}

}  // namespace frcnn
