// Resizing a decoded image onto the canvas of a batch.
#pragma once

#include <cstdint>

namespace frcnn {

enum class ResizeFilter {
  kBilinear,     // torch's interpolate: half-pixel centers, no antialiasing; float32, rounded to uint8 once
  kAntialiased,  // Pillow's BILINEAR (Resample.c): fixed-point weights, rounded to uint8 after each axis
};

// The image is flipped, resized, cropped at an offset to at most the canvas, and padded with zeros right and bottom.
// Results are pixels as uint8, or, of the bilinear filter, (pixel - mean) * inverse_std as float32, not rounded before.
struct ResizeCall {
  ResizeFilter filter;
  const uint8_t* pixels;  // [height, width, 3]
  int height, width;
  float extent_height, extent_width;  // antialiased: of the part that is resized, from the upper left corner
  int resized_height, resized_width;
  int top, left;  // of the crop in the resized image
  bool flip_vertically, flip_horizontally, reverse_channels;
  bool height_may_be_first;  // antialiased: in the order of Pillow 13 and later
  int canvas_height, canvas_width;
  float mean[3], inverse_std[3];  // of the channels in the order of the results
  uint8_t* canvas;                // [canvas_height, canvas_width, 3]; nullptr for float32 results
  float* normalized;              // the same; nullptr for uint8 results
};

}  // namespace frcnn
