// Launches non-maximum suppression on a GPU.
#include <type_traits>

#include "cuda_driver.h"
#include "cuda_launch.h"

namespace frcnn {
namespace {

// Places the buffers in `workspace`; returns their end.
char* lay_out(const NmsCall& call, char* workspace, NmsBuffers* buffers) {
  char* end = workspace;
  auto place = [&end](auto** buffer, int64_t count) {
    *buffer = reinterpret_cast<std::remove_pointer_t<decltype(buffer)>>(end);
    end += (count * int64_t(sizeof(**buffer)) + 255) / 256 * 256;
  };
  const int64_t batch = call.batch;
  place(&buffers->keys, batch * call.candidates);
  place(&buffers->found, batch);
  place(&buffers->ranked, batch * call.candidates);
  place(&buffers->kept, batch * call.max_outputs);
  place(&buffers->suppressed, batch * kTileWords);
  place(&buffers->mask, batch * kTile * kTileWords);
  return end;
}

// Runs the launches until one fails; returns its message.
template <class... Launches>
const char* first_error(Launches... launches) {
  const char* error = nullptr;
  static_cast<void>(((error = launches()) || ...));
  return error;
}

}  // namespace

int64_t nms_workspace_bytes(const NmsCall& call) {
  NmsBuffers buffers;
  return lay_out(call, nullptr, &buffers) - static_cast<char*>(nullptr);
}

const char* launch_nms(const NmsCall& call, void* workspace, void* stream) {
  if (call.batch == 0) return nullptr;
  NmsBuffers buffers;
  lay_out(call, static_cast<char*>(workspace), &buffers);
  const size_t outputs = sizeof(int32_t) * size_t(call.batch) * call.max_outputs;
  const char* error = first_error([&] { return set_bytes(call.indices, 0xff, outputs, stream); },  // -1
                                  [&] { return set_bytes(call.counts, 0, sizeof(int32_t) * call.batch, stream); },
                                  [&] { return set_bytes(buffers.found, 0, sizeof(int) * call.batch, stream); });
  if (error != nullptr || call.candidates == 0) return error;

  const Kernel<NmsKernel> collect{"frcnn_nms_collect"}, rank{"frcnn_nms_rank"};
  const Kernel<NmsTileKernel> compare{"frcnn_nms_compare"}, reduce{"frcnn_nms_reduce"};
  const Grid all = {blocks(call.candidates, FRCNN_THREADS), call.batch};
  error = first_error([&] { return collect.launch(all, FRCNN_THREADS, 0, stream, call, buffers); },
                      [&] {
                        const size_t shared = sizeof(uint64_t) * FRCNN_THREADS;
                        return rank.launch(all, FRCNN_THREADS, shared, stream, call, buffers);
                      });
  for (int first = 0; error == nullptr && first < call.candidates; first += kTile) {
    const int left = call.candidates - first;
    const int64_t words = blocks(left < kTile ? left : kTile, kWord);
    // One more row of blocks than the mask has compares with the boxes kept in earlier tiles.
    error = first_error(
        [&] {
          const size_t shared = (sizeof(Candidate) + sizeof(int)) * kWord;
          return compare.launch({words, words + 1, call.batch}, kWord, shared, stream, call, buffers, first);
        },
        [&] { return reduce.launch({call.batch}, kWord, sizeof(TileState), stream, call, buffers, first); });
  }
  return error;
}

}  // namespace frcnn
