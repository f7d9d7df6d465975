// The horizontal pass of the bilinear resize for processors with AVX-512, which select sixteen of 32 values at once.
#pragma once

#include <vector>

#include "resize_rows.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#include <immintrin.h>
#define FRCNN_WIDE __attribute__((target("arch=x86-64-v4")))
#endif

namespace frcnn {

constexpr int kReach = 2 * kLanes;
constexpr int kRowPadding = kReach;  // values after the last one of a row

// An output position between two pixels: low + (high - low) * fraction.
struct Position {
  int32_t low, high;
  float fraction;
};

// Sixteen values of a resized row, each between two of the kReach values from `first` on.
struct Block {
  float fraction[kLanes];
  int32_t first;
  uint8_t low[kLanes], high[kLanes];
};

// Blocks for these positions; none if a block needs values that are further apart, as in images that become much
// smaller.
inline std::vector<Block> make_blocks(const std::vector<Position>& positions, bool reverse_channels) {
  const int64_t values = kChannels * int64_t(positions.size());
  std::vector<Block> blocks((values + kLanes - 1) / kLanes);
  for (size_t n = 0; n < blocks.size(); ++n) {
    Block& block = blocks[n];
    const int64_t begin = kLanes * n, end = std::min(begin + kLanes, values) - 1;
    const Position &left = positions[begin / kChannels], &right = positions[end / kChannels];
    block.first = kChannels * std::min({left.low, left.high, right.low, right.high});
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t value = std::min(begin + lane, end);
      const Position& position = positions[value / kChannels];
      const int channel = reverse_channels ? kChannels - 1 - value % kChannels : value % kChannels;
      const int low = kChannels * position.low + channel - block.first;
      const int high = kChannels * position.high + channel - block.first;
      if (std::max(low, high) >= kReach) return {};
      block.low[lane] = uint8_t(low), block.high[lane] = uint8_t(high);
      block.fraction[lane] = position.fraction;
    }
  }
  return blocks;
}

#if defined(FRCNN_WIDE)
inline bool has_wide_permutations() {
  return __builtin_cpu_supports("x86-64-v4");
}

FRCNN_WIDE inline void blend_blocks(const float* row, const Block* blocks, size_t count, float* to) {
  const auto indices = [](const uint8_t* from) FRCNN_WIDE {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  };
  for (size_t n = 0; n < count; ++n) {
    const Block& block = blocks[n];
    const __m512 first = _mm512_loadu_ps(row + block.first), second = _mm512_loadu_ps(row + block.first + kLanes);
    const __m512 low = _mm512_permutex2var_ps(first, indices(block.low), second);
    const __m512 high = _mm512_permutex2var_ps(first, indices(block.high), second);
    const __m512 step = _mm512_mul_ps(_mm512_sub_ps(high, low), _mm512_loadu_ps(block.fraction));
    _mm512_storeu_ps(to + kLanes * n, _mm512_add_ps(low, step));
  }
}
#else
inline bool has_wide_permutations() {
  return false;
}
inline void blend_blocks(const float*, const Block*, size_t, float*) {}
#endif

}  // namespace frcnn
