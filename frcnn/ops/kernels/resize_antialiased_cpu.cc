// Pillow's antialiased resize on a CPU with the same pixels (Pillow, src/libImaging/Resample.c): a triangle filter over
// all pixels that an output pixel covers, with weights of 22 fractional bits, one axis after the other.
#include <vector>

#include "resize_rows.h"

namespace frcnn {
namespace {

constexpr int kWeightBits = 22;
constexpr int32_t kHalf = 1 << (kWeightBits - 1);
constexpr int64_t kPart = 4 * kLanes;

// The pixels of an axis that an output position is a sum of. Zeros follow the weights, up to Windows::most().
struct Window {
  int first, count;
  const int32_t* weights;
};

// Windows of positions first, first + 1, ... of an axis of `size` pixels, of which the first `extent` become `resized`.
class Windows {
 public:
  Windows(int size, float extent, int resized, int first, int count, bool flip) {
    const double scale = double(extent) / resized, support = std::max(scale, 1.0);
    const double start = flip ? size - extent : 0.0f;
    most_ = 2 * int(std::ceil(support)) + 1;
    weights_.resize(size_t(most_) * count);
    std::vector<double> shares(most_);
    for (int i = 0; i < count; ++i) {
      const double center = start + (first + i + 0.5) * scale;
      const int begin = std::max(int(center - support + 0.5), 0);
      const int length = std::min(int(center + support + 0.5), size) - begin;
      double sum = 0.0;
      for (int k = 0; k < length; ++k) {
        shares[k] = std::max(1.0 - std::abs((k + begin - center + 0.5) * (1.0 / support)), 0.0);
        sum += shares[k];
      }
      int32_t* weights = &weights_[size_t(most_) * i];
      // A flipped image has the mirrored window: sums of integers do not depend on the order.
      for (int k = 0; k < length; ++k)
        weights[flip ? length - 1 - k : k] = int32_t(0.5 + shares[k] / sum * (1 << kWeightBits));
      windows_.push_back({flip ? size - begin - length : begin, length, weights});
    }
  }

  const Window& operator[](int i) const { return windows_[i]; }
  int size() const { return int(windows_.size()); }
  int most() const { return most_; }  // pixels of a window

 private:
  int most_;
  std::vector<int32_t> weights_;
  std::vector<Window> windows_;
};

FRCNN_CLONES void widen(const uint8_t* from, int64_t count, int32_t* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
}

// A row of pixels, each the sum of a window of columns: of `most` of them, with weights of zero at the end, because a
// loop whose length varies is mispredicted.
FRCNN_CLONES void sum_columns(const int32_t* row, const Window* windows, int count, int most, bool reverse,
                              uint8_t* to) {
  typedef uint8_t BytePixel __attribute__((vector_size(4)));
  for (int x = 0; x < count; ++x) {
    const Window& window = windows[x];
    const int32_t* from = row + kChannels * window.first;
    IntPixel sum = IntPixel{} + kHalf;
    for (int k = 0; k < most; ++k) sum += load_pixel<IntPixel>(from + kChannels * k) * window.weights[k];
    sum = ordered(sum >> kWeightBits, reverse);
    sum = sum > 255 ? IntPixel{} + 255 : sum;
    store_pixel(__builtin_convertvector(sum, BytePixel), to + kChannels * x);
  }
}

// Adds up a part of `count` values of a window of rows. The sums stay in registers.
FRCNN_HD void sum_part(const uint8_t* const* rows, const Window& window, int64_t begin, int64_t count, uint8_t* to) {
  int32_t sums[kPart];
  for (int64_t i = 0; i < count; ++i) sums[i] = kHalf;
  for (int k = 0; k < window.count; ++k) {
    const uint8_t* row = rows[k] + begin;
    const int32_t weight = window.weights[k];
    for (int64_t i = 0; i < count; ++i) sums[i] += row[i] * weight;
  }
  for (int64_t i = 0; i < count; ++i) to[begin + i] = uint8_t(std::min(sums[i] >> kWeightBits, 255));
}

// Sums of a window of rows.
FRCNN_CLONES void sum_rows(const uint8_t* const* rows, const Window& window, int64_t values, uint8_t* to) {
  int64_t begin = 0;
  for (; begin + kPart <= values; begin += kPart) sum_part(rows, window, begin, kPart, to);
  if (begin < values) sum_part(rows, window, begin, values - begin, to);
}

// Resizes rows horizontally.
class Columns {
 public:
  explicit Columns(const ResizeCall& call)
      : windows_(call.width, call.extent_width, call.resized_width, call.left, visible_columns(call),
                 call.flip_horizontally),
        reverse_(call.reverse_channels),
        values_(int64_t{kChannels} * call.width),
        wide_(values_ + kChannels * windows_.most() + kRowEnd) {}

  // A row of `row_bytes`.
  void resize(const uint8_t* from, uint8_t* to) {
    widen(from, values_, wide_.data());
    sum_columns(wide_.data(), &windows_[0], windows_.size(), windows_.most(), reverse_, to);
  }

  size_t row_bytes() const { return kChannels * size_t(windows_.size()) + kRowEnd; }

 private:
  Windows windows_;
  bool reverse_;
  int64_t values_;
  std::vector<int32_t> wide_;
};

// Source rows that were resized horizontally, as many as a window has.
class ResizedRows {
 public:
  ResizedRows(const ResizeCall& call, int most)
      : call_(call), columns_(call), rows_(most, std::vector<uint8_t>(columns_.row_bytes())), held_(most, -1) {}

  const uint8_t* get(int y) {
    const int slot = y % int(rows_.size());
    if (held_[slot] != y) columns_.resize(source_row(call_, y), rows_[slot].data());
    held_[slot] = y;
    return rows_[slot].data();
  }

 private:
  const ResizeCall& call_;
  Columns columns_;
  std::vector<std::vector<uint8_t>> rows_;
  std::vector<int> held_;
};

void resize_width_first(const ResizeCall& call, const Windows& windows) {
  const int64_t values = kChannels * visible_columns(call);
  ResizedRows resized(call, windows.most());
  std::vector<const uint8_t*> rows(windows.most());
  fill_canvas(call, call.canvas, [&](int y, uint8_t* to) {
    const Window& window = windows[y];
    for (int k = 0; k < window.count; ++k) rows[k] = resized.get(window.first + k);
    sum_rows(rows.data(), window, values, to);
  });
}

void resize_height_first(const ResizeCall& call, const Windows& windows) {
  const int64_t source_values = int64_t{kChannels} * call.width, values = kChannels * visible_columns(call);
  Columns columns(call);
  std::vector<uint8_t> row(source_values), resized(columns.row_bytes());
  std::vector<const uint8_t*> rows(windows.most());
  fill_canvas(call, call.canvas, [&](int y, uint8_t* to) {
    const Window& window = windows[y];
    for (int k = 0; k < window.count; ++k) rows[k] = source_row(call, window.first + k);
    sum_rows(rows.data(), window, source_values, row.data());
    columns.resize(row.data(), resized.data());
    memcpy(to, resized.data(), values);
  });
}

}  // namespace

void resize_antialiased(const ResizeCall& call) {
  const Windows windows(call.height, call.extent_height, call.resized_height, call.top, visible_rows(call),
                        call.flip_vertically);
  const int fewer_rows = call.height - call.resized_height, fewer_columns = call.width - call.resized_width;
  if (call.height_may_be_first && fewer_rows > 0 && fewer_rows > 2 * fewer_columns) {
    resize_height_first(call, windows);
  } else {
    resize_width_first(call, windows);
  }
}

}  // namespace frcnn
