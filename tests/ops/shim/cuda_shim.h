// Runs the .cu files on the host: blocks run serially, CUDA threads are fibers or host threads.
//
// Fibers take turns at barriers, in forward, reverse or shuffled order, on one thread. With FRCNN_SHIM_THREADS every
// CUDA thread is a thread of the host, for the address and thread sanitizers. Either way shared memory is a heap block
// of the exact size, filled with NaN patterns before each block, and a barrier that some threads miss ends the program.
// Not modelled: warps, the memory model beyond races, float16 instructions, occupancy, speed.
#pragma once

#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#define FRCNN_SHIM
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint3 {
  unsigned x, y, z;
};
namespace shim {

inline thread_local uint3 thread_index, block_index;
inline dim3 grid_size, block_size;
inline unsigned char* shared_memory;
inline std::string order = "forward";
inline std::mt19937 shuffle(7);
inline std::atomic<int64_t> bytes_moved{0};

inline void divergence(unsigned thread) {
  fprintf(stderr, "divergent barrier: thread %u does not reach the barrier of the others\n", thread);
  _exit(3);
}

// Shared memory of one block: exact size, so that a sanitizer sees the first byte beyond it.
class Shared {
 public:
  explicit Shared(size_t bytes) {
    shared_memory = static_cast<unsigned char*>(malloc(bytes));
    memset(shared_memory, 0xff, bytes);
  }
  ~Shared() { free(shared_memory); }
};

#if defined(FRCNN_SHIM_THREADS)

// Threads synchronize here at __syncthreads and at the begin and end of each block; all must arrive for the same
// reason.
enum class Reason { kBarrier, kBegin, kEnd };
class Rendezvous {
 public:
  void wait(Reason reason) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (arrived_ == 0) reason_ = reason;
    if (reason_ != reason) divergence(thread_index.x);
    if (++arrived_ == block_size.x) {
      arrived_ = 0;
      ++round_;
      all_.notify_all();
      return;
    }
    const uint64_t round = round_;
    all_.wait(lock, [&] { return round_ != round; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_;
  unsigned arrived_ = 0;
  uint64_t round_ = 0;
  Reason reason_;
};
inline Rendezvous rendezvous;

inline void barrier() {
  rendezvous.wait(Reason::kBarrier);
}

inline void run_blocks(const std::vector<uint3>& blocks, size_t shared_bytes, const std::function<void()>& kernel) {
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < block_size.x; ++t) {
    threads.emplace_back([&, t] {
      thread_index = {t, 0, 0};
      for (uint3 block : blocks) {
        std::unique_ptr<Shared> memory(t == 0 ? new Shared(shared_bytes) : nullptr);
        block_index = block;
        rendezvous.wait(Reason::kBegin);
        kernel();
        rendezvous.wait(Reason::kEnd);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

template <class T>
T atomic_add(T* place, T value) {
  T old;
  __atomic_load(place, &old, __ATOMIC_RELAXED);
  T sum = old + value;
  while (!__atomic_compare_exchange(place, &old, &sum, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) sum = old + value;
  return old;
}

template <class T>
T atomic_or(T* place, T value) {
  return __atomic_fetch_or(place, value, __ATOMIC_RELAXED);
}

#else

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  bool ended;
};
inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline unsigned running;
inline const std::function<void()>* body;

inline void barrier() {
  swapcontext(&fibers[running].context, &scheduler);
}

inline void enter() {
  (*body)();
  fibers[running].ended = true;
}

inline void run_block(uint3 block, const std::function<void()>& kernel) {
  body = &kernel;
  fibers.resize(std::max<size_t>(fibers.size(), block_size.x));
  std::vector<unsigned> turns(block_size.x);
  for (unsigned t = 0; t < block_size.x; ++t) {
    turns[t] = t;
    Fiber& fiber = fibers[t];
    fiber.stack.resize(64 << 10);
    fiber.ended = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = &scheduler;
    makecontext(&fiber.context, enter, 0);
  }
  if (order == "reverse") std::reverse(turns.begin(), turns.end());
  block_index = block;
  for (unsigned ended = 0; ended == 0;) {
    if (order == "shuffled") std::shuffle(turns.begin(), turns.end(), shuffle);
    for (unsigned t : turns) {
      running = t;
      thread_index = {t, 0, 0};
      swapcontext(&scheduler, &fibers[t].context);
      ended += fibers[t].ended;
    }
    if (ended != 0 && ended != block_size.x) divergence(running);
  }
}

inline void run_blocks(const std::vector<uint3>& blocks, size_t shared_bytes, const std::function<void()>& kernel) {
  for (uint3 block : blocks) {
    Shared memory(shared_bytes);
    run_block(block, kernel);
  }
}

template <class T>
T atomic_add(T* place, T value) {
  const T old = *place;
  *place = old + value;
  return old;
}

template <class T>
T atomic_or(T* place, T value) {
  const T old = *place;
  *place = old | value;
  return old;
}

#endif

// The kernels of the program by name: what calls them with the addresses of their arguments, as the driver is given.
using Invoke = std::function<void(void** arguments)>;
inline std::map<std::string, Invoke>& kernels() {
  static std::map<std::string, Invoke> all;
  return all;
}

template <class... Parameters, size_t... kIndices>
void invoke(void (*kernel)(Parameters...), void** arguments, std::index_sequence<kIndices...>) {
  kernel(*static_cast<std::remove_reference_t<Parameters>*>(arguments[kIndices])...);
}

template <class... Parameters>
bool add_kernel(const char* name, void (*kernel)(Parameters...)) {
  kernels()[name] = [kernel](void** arguments) { invoke(kernel, arguments, std::index_sequence_for<Parameters...>()); };
  return true;
}

inline void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel) {
  grid_size = grid;
  block_size = block;
  std::vector<uint3> blocks;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) blocks.push_back({x, y, z});
  run_blocks(blocks, shared_bytes, kernel);
}

}  // namespace shim

#define threadIdx shim::thread_index
#define blockIdx shim::block_index
#define blockDim shim::block_size
#define gridDim shim::grid_size
#define __syncthreads shim::barrier
#define __popc __builtin_popcount
#define __popcll __builtin_popcountll
#define atomicAdd shim::atomic_add
#define atomicOr shim::atomic_or
#define FRCNN_SHARED(T, name) T* const name = reinterpret_cast<T*>(shim::shared_memory)
#define FRCNN_PARAMETER const
#define FRCNN_KERNEL(signature, name) \
  static const bool name##_is_added = shim::add_kernel(#name, static_cast<signature*>(&name))
#define FRCNN_COUNT_BYTES(bytes) shim::bytes_moved.fetch_add(int64_t(bytes), std::memory_order_relaxed)
