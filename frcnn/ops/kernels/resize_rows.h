// Rows of pixels with three channels, as both filters of the resize read and write them.
#pragma once

#include <algorithm>
#include <cstring>

#include "resize.h"
#include "vectors.h"

namespace frcnn {

constexpr int kChannels = 3;
// A pixel is loaded and stored as four values; the fourth belongs to the next pixel and is overwritten by it. Rows in
// such buffers end with one more value.
constexpr int kRowEnd = 1;
typedef float FloatPixel __attribute__((vector_size(16)));
typedef int32_t IntPixel __attribute__((vector_size(16)));

template <class Pixel, class T>
FRCNN_HD Pixel load_pixel(const T* from) {
  Pixel pixel;
  memcpy(&pixel, from, sizeof(pixel));
  return pixel;
}

template <class Pixel, class T>
FRCNN_HD void store_pixel(Pixel pixel, T* to) {
  memcpy(to, &pixel, sizeof(pixel));
}

template <class Pixel>
FRCNN_HD Pixel ordered(Pixel pixel, bool reverse_channels) {
  return reverse_channels ? __builtin_shuffle(pixel, IntPixel{2, 1, 0, 3}) : pixel;
}

// The part of the resized image that is on the canvas.
inline int visible_rows(const ResizeCall& call) {
  return std::min(call.resized_height - call.top, call.canvas_height);
}
inline int visible_columns(const ResizeCall& call) {
  return std::min(call.resized_width - call.left, call.canvas_width);
}

inline const uint8_t* source_row(const ResizeCall& call, int y) {
  return call.pixels + int64_t{kChannels} * call.width * y;
}

// Calls fill_row(y, to) for each visible row, which writes the visible columns, and pads.
template <class T, class FillRow>
void fill_canvas(const ResizeCall& call, T* canvas, const FillRow& fill_row) {
  const int64_t stride = int64_t{kChannels} * call.canvas_width, filled = int64_t{kChannels} * visible_columns(call);
  const int rows = visible_rows(call);
  for (int y = 0; y < rows; ++y) {
    T* to = canvas + stride * y;
    fill_row(y, to);
    memset(to + filled, 0, sizeof(T) * (stride - filled));
  }
  memset(canvas + stride * rows, 0, sizeof(T) * stride * (call.canvas_height - rows));
}

void resize_antialiased(const ResizeCall& call);

}  // namespace frcnn
