// One call of a GPU kernel on the host: `run OPERATION ORDER < call > result`; numbers come and go as they lie in
// memory. The bytes that the kernels moved go to stderr. Buffers have their exact size, so that a sanitizer sees what
// lies beyond.
#include "cuda_shim.h"
//
#include "cuda_launch.h"

using namespace frcnn;

template <class T>
std::vector<T> read(int64_t count) {
  std::vector<T> values(count);
  values.shrink_to_fit();
  if (fread(values.data(), sizeof(T), count, stdin) != size_t(count)) exit(4);
  return values;
}

template <class T>
void print(const std::vector<T>& values) {
  fwrite(values.data(), sizeof(T), values.size(), stdout);
}

int64_t bytes_of(DType dtype) {
  return dtype == DType::kFloat32 ? 4 : 2;
}

const char* run_pooling(const std::string& operation) {
  // levels, batch, channels, bins, sampling ratio, aligned, dtype, boxes; then heights, widths, scales, starts, boxes,
  // images
  const auto head = read<int32_t>(8);
  PoolingCall call = {};
  call.pyramid.levels = head[0], call.pyramid.batch = head[1], call.pyramid.channels = head[2];
  call.pooling = {head[3], head[4], head[5] != 0};
  call.dtype = DType(head[6]);
  call.count = head[7];
  const auto heights = read<int32_t>(head[0]), widths = read<int32_t>(head[0]);
  const auto scales = read<float>(head[0]), starts = read<float>(head[0]);
  const auto boxes = read<float>(4 * call.count);
  const auto images = read<int32_t>(call.count);
  call.boxes = boxes.data(), call.box_image = images.data();
  std::vector<std::vector<char>> maps;
  std::vector<void*> places;
  const int64_t pooled_bytes = call.count * head[3] * head[3] * head[2] * bytes_of(call.dtype);
  for (int level = 0; level < head[0]; ++level) {
    call.pyramid.height[level] = heights[level], call.pyramid.width[level] = widths[level];
    call.pyramid.scale[level] = scales[level], call.pyramid.start[level] = starts[level];
    const int64_t bytes = int64_t(head[1]) * heights[level] * widths[level] * head[2] * bytes_of(call.dtype);
    maps.push_back(operation == "roi_align" ? read<char>(bytes) : std::vector<char>(bytes, char(0xff)));
  }
  for (auto& map : maps) places.push_back(map.data());
  if (operation == "roi_align") {
    std::vector<char> pooled(pooled_bytes, char(0xff));
    const char* failure = launch_roi_align(call, places.data(), pooled.data(), nullptr);
    print(pooled);
    return failure;
  }
  const auto upstream = read<char>(pooled_bytes);
  const bool deterministic = operation == "roi_align_gradient_deterministic";
  std::vector<float> sums(roi_align_gradient_sums(call, deterministic));
  const char* failure = launch_roi_align_gradient(call, upstream.data(), places.data(),
                                                  sums.empty() ? nullptr : sums.data(), deterministic, nullptr);
  for (const auto& map : maps) print(map);
  return failure;
}

const char* run_nms() {
  // batch, candidates, outputs; threshold; then boxes, scores, groups
  const auto head = read<int32_t>(3);
  const auto threshold = read<float>(1);
  const int64_t places = int64_t(head[0]) * head[1];
  const auto boxes = read<float>(4 * places), scores = read<float>(places);
  const auto groups = read<int32_t>(places);
  std::vector<int32_t> indices(int64_t(head[0]) * head[2], 77), counts(head[0], 77);
  const NmsCall call = {head[0],       head[1],       head[2],        threshold[0], boxes.data(),
                        scores.data(), groups.data(), indices.data(), counts.data()};
  std::vector<char> workspace(nms_workspace_bytes(call), char(0xff));
  const char* failure = launch_nms(call, workspace.data(), nullptr);
  print(indices);
  print(counts);
  return failure;
}

int main(int, char** arguments) {
  const std::string operation = arguments[1];
  shim::order = arguments[2];
  const char* failure = operation == "nms" ? run_nms() : run_pooling(operation);
  fprintf(stderr, "%lld\n", static_cast<long long>(shim::bytes_moved.load()));
  if (failure != nullptr) fprintf(stderr, "%s\n", failure);
  return failure == nullptr ? 0 : 5;
}
