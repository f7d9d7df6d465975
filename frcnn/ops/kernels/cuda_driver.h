// Loads the machine code of the GPU kernels and launches them through the CUDA driver API. The driver is loaded at run
// time, so that the library needs neither CUDA's headers nor its libraries.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace frcnn {

// Machine code is one file per compute capability, NAME.sm_XY.cubin for the library NAME.so: beside the library or in
// this folder, which is searched second.
void set_gpu_code_folder(const std::string& folder);

// Whether there is machine code for any GPU.
bool has_gpu_code();

struct Grid {
  int64_t x = 1, y = 1, z = 1;
};

// Blocks of `size` that cover `count`.
inline int64_t blocks(int64_t count, int64_t size) {
  return (count + size - 1) / size;
}

// Each returns nullptr, or an error message that stays valid.
const char* launch_kernel(const char* name, Grid grid, int threads, size_t shared_bytes, void** arguments,
                          void* stream);
const char* set_bytes(void* to, unsigned char value, size_t bytes, void* stream);

// A kernel of a given signature, by name. Arguments are converted to the parameters' exact types.
template <class Signature>
struct Kernel;
template <class... Parameters>
struct Kernel<void(Parameters...)> {
  std::string name;

  const char* launch(Grid grid, int threads, size_t shared_bytes, void* stream, Parameters... arguments) const {
    void* addresses[] = {const_cast<void*>(static_cast<const void*>(&arguments))...};
    return launch_kernel(name.c_str(), grid, threads, shared_bytes, addresses, stream);
  }
};

}  // namespace frcnn
