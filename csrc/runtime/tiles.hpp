// Networks that take a part of the sample at once: overlapping tiles, whose outputs are blended into one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/buffer.hpp"
#include "ops/launch.hpp"
#include "runtime/component.hpp"

namespace ae {

// Tiles along one axis.
struct TileAxis {
  std::vector<int64_t> starts;  // in the network's input
  // [tiles, tile * scale]: the weight of each position of a tile's output; at every position of the image those of all tiles add
  // up to 1.
  std::vector<float> weights;
};

// Tiles of `tile` that cover `length` and overlap by `overlap` < tile or more, evenly spaced. At an edge inside the image a
// tile's weight is 0 in the outer quarter of the overlap, where the network sees the least of what surrounds it, rises linearly
// in the middle half, and is constant from there on. The output has `scale` positions for one of the input.
TileAxis divide(int64_t length, int64_t tile, int64_t overlap, int64_t scale);

// The tiles of one component, and the buffers that it is bound to.
class Tiles {
 public:
  // The component maps [C, h, w] to [D, s h, t w]; `input` and `output` are the shapes of the whole. `overlap` in positions of
  // the input, along both axes.
  Tiles(const Component& component, const std::vector<int64_t>& input, const std::vector<int64_t>& output, int64_t overlap_rows,
        int64_t overlap_columns, const Memory& memory);

  // Buffers for network batches of up to `samples`; what `input` and `output` returned before is gone.
  void reserve(int64_t samples);
  float* input() { return input_.data(); }    // [samples, C, h, w]
  float* output() { return output_.data(); }  // [samples, D, s h, t w]

  size_t count() const { return rows_.starts.size() * columns_.starts.size(); }
  void cut(size_t tile, const float* whole, int64_t samples, const ops::Launch& launch);  // [samples, C, H, W] → input()
  void blend(size_t tile, float* whole, int64_t samples, const ops::Launch& launch);      // adds output() to [samples, D, …]

 private:
  const std::vector<int64_t> whole_input_, whole_output_, tile_input_, tile_output_;
  const Memory& memory_;
  const TileAxis rows_, columns_;
  Buffer<float> row_weights_, column_weights_, input_, output_;
};

}  // namespace ae
