// A CUDA driver with one device, whose kernels are those of the shim: memory is the host's, launches run at once.
//
// Every launch is checked against the limits of a GPU and, with FRCNN_SHIM_LAUNCHES=FILE, appended to the file:
// name, grid, threads, bytes of shared memory. FRCNN_SHIM_DRY=1 only records launches and does not run them.
#include "cuda_shim.h"
//
#include "driver_memory.h"

namespace {

constexpr CUresult kInvalidValue = 1, kNoBinary = 209, kNotFound = 500;
constexpr int kMajor = 8, kMinor = 6;  // of the device
int context, module;
int streams[2];  // two, so that the wrong one is noticed

const char* setting(const char* name) {
  const char* value = getenv(name);
  return value != nullptr && *value != 0 ? value : nullptr;
}

CUresult fail(const char* message) {
  fprintf(stderr, "fake driver: %s\n", message);
  return kInvalidValue;
}

}  // namespace

extern "C" {

#define FRCNN_EXPORT __attribute__((visibility("default")))

FRCNN_EXPORT CUresult cuGetErrorString(CUresult error, const char** text) {
  *text = error == kInvalidValue ? "invalid argument"
          : error == kNoBinary   ? "no kernel image is available for execution on the device"
          : error == kNotFound   ? "named symbol not found"
                                 : "unknown error";
  return 0;
}
FRCNN_EXPORT CUresult cuInit(unsigned) {
  return 0;
}
FRCNN_EXPORT CUresult cuDeviceGet(CUdevice* device, int) {
  *device = 0;
  return 0;
}
FRCNN_EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext* to, CUdevice) {
  *to = reinterpret_cast<CUcontext>(&context);
  return 0;
}
FRCNN_EXPORT CUresult cuCtxSetCurrent(CUcontext) {
  return 0;
}
FRCNN_EXPORT CUresult cuCtxGetCurrent(CUcontext* to) {
  return cuDevicePrimaryCtxRetain(to, 0);
}
FRCNN_EXPORT CUresult cuCtxGetDevice(CUdevice* device) {
  return cuDeviceGet(device, 0);
}
FRCNN_EXPORT CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
  if (attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) return *value = kMajor, 0;
  if (attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR) return *value = kMinor, 0;
  return fail("unexpected attribute");
}
FRCNN_EXPORT CUresult cuModuleLoadData(CUmodule* to, const void* code) {
  if (memcmp(code, "shim", 4) != 0) return kNoBinary;  // what shim_runs.py writes as machine code
  *to = reinterpret_cast<CUmodule>(&module);
  return 0;
}
FRCNN_EXPORT CUresult cuModuleGetFunction(CUfunction* to, CUmodule from, const char* name) {
  const auto found = shim::kernels().find(name);
  if (from != reinterpret_cast<CUmodule>(&module) || found == shim::kernels().end()) return kNotFound;
  *to = reinterpret_cast<CUfunction>(const_cast<std::pair<const std::string, shim::Invoke>*>(&*found));
  return 0;
}
FRCNN_EXPORT CUresult cuStreamCreate(CUstream* to, unsigned) {
  *to = reinterpret_cast<CUstream>(&streams[1]);
  return 0;
}
FRCNN_EXPORT CUresult cuStreamSynchronize(CUstream) {
  return 0;
}
FRCNN_EXPORT CUresult cuMemAlloc_v2(CUdeviceptr* to, size_t bytes) {
  *to = CUdeviceptr(malloc(bytes));
  return 0;
}
FRCNN_EXPORT CUresult cuMemFree_v2(CUdeviceptr memory) {
  free(reinterpret_cast<void*>(memory));
  return 0;
}
FRCNN_EXPORT CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
  memcpy(reinterpret_cast<void*>(to), from, bytes);
  return 0;
}
FRCNN_EXPORT CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
  memcpy(to, reinterpret_cast<const void*>(from), bytes);
  return 0;
}
FRCNN_EXPORT CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t bytes) {
  if (!setting("FRCNN_SHIM_DRY")) memset(reinterpret_cast<void*>(to), value, bytes);
  return 0;
}
FRCNN_EXPORT CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream) {
  if (stream != nullptr && stream != reinterpret_cast<CUstream>(&streams[1])) return fail("unknown stream");
  if (!setting("FRCNN_SHIM_DRY")) memset(reinterpret_cast<void*>(to), value, bytes);
  return 0;
}
FRCNN_EXPORT CUresult cuLaunchKernel(CUfunction function, unsigned x, unsigned y, unsigned z, unsigned threads,
                                     unsigned threads_y, unsigned threads_z, unsigned shared, CUstream stream,
                                     void** arguments, void** extra) {
  const auto& kernel = *reinterpret_cast<const std::pair<const std::string, shim::Invoke>*>(function);
  if (stream != nullptr && stream != reinterpret_cast<CUstream>(&streams[1])) return fail("unknown stream");
  if (x < 1 || y < 1 || z < 1 || x > 0x7fffffff || y > 0xffff || z > 0xffff) return fail("grid out of range");
  if (threads < 1 || threads > 1024 || threads_y != 1 || threads_z != 1) return fail("block out of range");
  if (shared > 48 * 1024) return fail("too much shared memory");
  if (extra != nullptr) return fail("unexpected extra arguments");
  if (const char* file = setting("FRCNN_SHIM_LAUNCHES")) {
    FILE* log = fopen(file, "a");
    fprintf(log, "%s %u %u %u %u %u\n", kernel.first.c_str(), x, y, z, threads, shared);
    fclose(log);
  }
  if (!setting("FRCNN_SHIM_DRY")) shim::launch(dim3(x, y, z), dim3(threads), shared, [&] { kernel.second(arguments); });
  return 0;
}

// For callers that do not include cuda_shim.h.
FRCNN_EXPORT void frcnn_shim_order(const char* order) {
  shim::order = order;
}
FRCNN_EXPORT long long frcnn_shim_bytes() {
  return shim::bytes_moved.load();
}
}
