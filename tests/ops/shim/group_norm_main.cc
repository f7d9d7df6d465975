// Runs group norm and its gradient on the arrays of the standard input, for test_cpu_kernels_alone.py.
//
//   group_norm ORDER < batch pixels channels groups dtype relu (int64), inputs upstream gamma beta > outputs gradient
//   ...
//
// Chunks of work run serially in forward, reverse or shuffled order. Arrays are in memory of their exact size, so that
// the address sanitizer sees an access beyond them.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>

#include "group_norm.h"

namespace {

std::string order;

void in_chunks(int64_t count, int64_t block, const frcnn::Body& body) {
  std::vector<int64_t> begins;
  for (int64_t begin = 0; begin < count; begin += block) begins.push_back(begin);
  if (order == "reverse") std::reverse(begins.begin(), begins.end());
  if (order == "shuffled") std::shuffle(begins.begin(), begins.end(), std::mt19937(1));
  for (int64_t begin : begins) body(begin, std::min(begin + block, count));
}

struct Array {
  explicit Array(int64_t bytes) : bytes(bytes), data(new char[bytes]) {}
  Array& read() {
    if (fread(data.get(), 1, bytes, stdin) != size_t(bytes)) std::exit(2);
    return *this;
  }
  void write() const { fwrite(data.get(), 1, bytes, stdout); }
  float* floats() { return reinterpret_cast<float*>(data.get()); }

  int64_t bytes;
  std::unique_ptr<char[]> data;
};

}  // namespace

int main(int, char** arguments) {
  order = arguments[1];
  int64_t header[6];
  if (fread(header, sizeof(header), 1, stdin) != 1) return 2;
  const frcnn::GroupNormShape shape{header[0], header[1], header[2], header[3]};
  const auto dtype = static_cast<frcnn::DType>(header[4]);
  const bool relu = header[5] != 0;
  const int64_t width = dtype == frcnn::DType::kFloat32 ? 4 : 2;
  const int64_t elements = shape.batch * shape.pixels * shape.channels;
  Array inputs(elements * width), upstream(elements * width), gamma(4 * shape.channels), beta(4 * shape.channels);
  for (Array* array : {&inputs, &upstream, &gamma, &beta}) array->read();
  Array outputs(elements * width), gradient(elements * width), mean(4 * shape.batch * shape.groups),
      rstd(4 * shape.batch * shape.groups), of_gamma(4 * shape.channels), of_beta(4 * shape.channels);
  frcnn::group_norm_forward(shape, dtype, 1e-3f, relu, inputs.data.get(), gamma.floats(), beta.floats(),
                            outputs.data.get(), mean.floats(), rstd.floats(), in_chunks);
  frcnn::group_norm_backward(shape, dtype, relu, upstream.data.get(), inputs.data.get(), gamma.floats(), beta.floats(),
                             mean.floats(), rstd.floats(), gradient.data.get(), of_gamma.floats(), of_beta.floats(),
                             in_chunks);
  for (const Array* array : {&outputs, &gradient, &of_gamma, &of_beta}) array->write();
}
