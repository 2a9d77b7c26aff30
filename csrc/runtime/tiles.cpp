#include "runtime/tiles.hpp"

#include <algorithm>

#include "ops/blend_tile/params.hpp"
#include "ops/cut_tile/params.hpp"

namespace ae {
namespace {

int64_t elements(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t side : shape) count *= side;
  return count;
}

const std::vector<int64_t>& sample_of(const Component& component) {
  return std::find_if(component.inputs.begin(), component.inputs.end(),
                      [](const TensorSpec& input) { return input.role == Role::kSample; })
      ->shape;
}

Buffer<float> uploaded(const std::vector<float>& values, const Memory& memory) {
  Buffer<float> buffer(static_cast<int64_t>(values.size()), memory);
  memory.upload(buffer.data(), values.data(), values.size() * sizeof(float));
  return buffer;
}

}  // namespace

TileAxis divide(int64_t length, int64_t tile, int64_t overlap, int64_t scale) {
  TileAxis axis;
  const int64_t gaps = length > tile ? (length - overlap - 1) / (tile - overlap) : 0;  // ceil((length - tile) / (tile - overlap))
  for (int64_t i = 0; i <= gaps; ++i) axis.starts.push_back(gaps == 0 ? 0 : (length - tile) * i / gaps);
  const int64_t wide = tile * scale, none = overlap * scale / 4;
  const double rise = static_cast<double>(overlap * scale - 2 * none);
  // By its distance from the edge; the outermost edges are those of the image, where nothing is missing.
  const auto weight = [&](int64_t distance) {
    return distance < none ? 0.0 : rise == 0 ? 1.0 : std::min(1.0, (static_cast<double>(distance - none) + 0.5) / rise);
  };
  std::vector<double> sums(static_cast<size_t>(length * scale)), own;
  for (int64_t i = 0; i <= gaps; ++i)
    for (int64_t x = 0; x < wide; ++x) {
      own.push_back(std::min(i == 0 ? 1.0 : weight(x), i == gaps ? 1.0 : weight(wide - 1 - x)));
      sums[static_cast<size_t>(axis.starts[static_cast<size_t>(i)] * scale + x)] += own.back();
    }
  for (int64_t i = 0; i <= gaps; ++i)
    for (int64_t x = 0; x < wide; ++x)
      axis.weights.push_back(static_cast<float>(own[static_cast<size_t>(i * wide + x)] /
                                                sums[static_cast<size_t>(axis.starts[static_cast<size_t>(i)] * scale + x)]));
  return axis;
}

Tiles::Tiles(const Component& component, const std::vector<int64_t>& input, const std::vector<int64_t>& output,
             int64_t overlap_rows, int64_t overlap_columns, const Memory& memory)
    : whole_input_(input),
      whole_output_(output),
      tile_input_(sample_of(component)),
      tile_output_(component.outputs[0].shape),
      memory_(memory),
      rows_(divide(input[1], tile_input_[1], overlap_rows, output[1] / input[1])),
      columns_(divide(input[2], tile_input_[2], overlap_columns, output[2] / input[2])),
      row_weights_(uploaded(rows_.weights, memory)),
      column_weights_(uploaded(columns_.weights, memory)) {}

void Tiles::reserve(int64_t samples) {
  input_ = Buffer<float>(samples * elements(tile_input_), memory_);
  output_ = Buffer<float>(samples * elements(tile_output_), memory_);
}

void Tiles::cut(size_t tile, const float* whole, int64_t samples, const ops::Launch& launch) {
  ops::CutTileParams p;
  p.samples = samples;
  p.channels = whole_input_[0];
  p.height = whole_input_[1];
  p.width = whole_input_[2];
  p.tile_height = tile_input_[1];
  p.tile_width = tile_input_[2];
  p.image = whole;
  p.tile = input_.data();
  p.top = static_cast<uint32_t>(rows_.starts[tile / columns_.starts.size()]);
  p.left = static_cast<uint32_t>(columns_.starts[tile % columns_.starts.size()]);
  p.launch = launch;
  ops::cut_tile(p);
}

void Tiles::blend(size_t tile, float* whole, int64_t samples, const ops::Launch& launch) {
  const size_t row = tile / columns_.starts.size(), column = tile % columns_.starts.size();
  ops::BlendTileParams p;
  p.samples = samples;
  p.channels = whole_output_[0];
  p.height = whole_output_[1];
  p.width = whole_output_[2];
  p.tile_height = tile_output_[1];
  p.tile_width = tile_output_[2];
  p.tile = output_.data();
  p.rows = row_weights_.data() + static_cast<int64_t>(row) * p.tile_height;
  p.columns = column_weights_.data() + static_cast<int64_t>(column) * p.tile_width;
  p.image = whole;
  p.top = static_cast<uint32_t>(rows_.starts[row] * (whole_output_[1] / whole_input_[1]));
  p.left = static_cast<uint32_t>(columns_.starts[column] * (whole_output_[2] / whole_input_[2]));
  p.launch = launch;
  ops::blend_tile(p);
}

}  // namespace ae
