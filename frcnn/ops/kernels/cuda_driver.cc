#include "cuda_driver.h"

#include <dirent.h>
#include <dlfcn.h>

#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "cuda_driver_api.h"

namespace frcnn {
namespace {

#if defined(FRCNN_SHIM_DRIVER)
constexpr const char* kDriverLibrary = nullptr;  // the tests link a driver into the program
#else
constexpr const char* kDriverLibrary = "libcuda.so.1";
#endif

// Messages are returned as const char*; each different one is kept.
const char* keep(const std::string& message) {
  static std::mutex mutex;
  static std::set<std::string>* messages = new std::set<std::string>;
  const std::lock_guard<std::mutex> lock(mutex);
  return messages->insert(message).first->c_str();
}

struct Driver {
#define FRCNN_MEMBER(name, parameters) CUresult(*name) parameters = nullptr;
  FRCNN_DRIVER_FUNCTIONS(FRCNN_MEMBER)
#undef FRCNN_MEMBER
  std::string error;

  Driver() {
    // Not from the process's global symbols: TensorFlow has functions of these names that only forward calls.
    void* library = dlopen(kDriverLibrary, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      error = std::string("cannot load NVIDIA's driver: ") + dlerror();
      return;
    }
#define FRCNN_LOAD(name, parameters)                                                       \
  name = reinterpret_cast<decltype(name)>(reinterpret_cast<void*>(dlsym(library, #name))); \
  if (name == nullptr) error = "NVIDIA's driver does not have " #name;
    FRCNN_DRIVER_FUNCTIONS(FRCNN_LOAD)
#undef FRCNN_LOAD
  }
};

const Driver& driver() {
  static const Driver* loaded = new Driver;
  return *loaded;
}

const char* message_of(CUresult result, const std::string& what) {
  if (int(result) == 0) return nullptr;
  const char* text = nullptr;
  driver().cuGetErrorString(result, &text);
  return keep(what + ": " + (text != nullptr ? text : "CUDA error " + std::to_string(int(result))));
}

#define FRCNN_RETURN_IF_ERROR(call, what) \
  if (const char* error = message_of(call, what)) return error

std::mutex folder_mutex;
std::string& extra_folder() {
  static std::string* folder = new std::string;
  return *folder;
}

// Folder and name of this library.
std::pair<std::string, std::string> own_path() {
  Dl_info info;
  if (dladdr(reinterpret_cast<const void*>(&has_gpu_code), &info) == 0 || info.dli_fname == nullptr) return {".", ""};
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  if (name.size() > 3 && name.compare(name.size() - 3, 3, ".so") == 0) name.resize(name.size() - 3);
  return {slash == std::string::npos ? "." : path.substr(0, slash), name};
}

std::vector<std::string> folders() {
  const std::lock_guard<std::mutex> lock(folder_mutex);
  std::vector<std::string> found = {own_path().first};
  if (!extra_folder().empty()) found.push_back(extra_folder());
  return found;
}

std::vector<char> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// Machine code for the current device. That of a lower minor version of its compute capability runs on it too.
const char* find_code(std::vector<char>* code) {
  CUdevice device;
  int major, minor;
  FRCNN_RETURN_IF_ERROR(driver().cuCtxGetDevice(&device), "no current GPU");
  FRCNN_RETURN_IF_ERROR(driver().cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device),
                        "compute capability");
  FRCNN_RETURN_IF_ERROR(driver().cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device),
                        "compute capability");
  for (int lower = minor; lower >= 0; --lower) {
    for (const std::string& folder : folders()) {
      *code = read_file(folder + "/" + own_path().second + ".sm_" + std::to_string(major) + std::to_string(lower) +
                        ".cubin");
      if (!code->empty()) return nullptr;
    }
  }
  std::string where;
  for (const std::string& folder : folders()) where += (where.empty() ? "" : ", ") + folder;
  return keep("no GPU kernels for compute capability " + std::to_string(major) + "." + std::to_string(minor) + " in " +
              where + "; build them with: python -m frcnn.ops");
}

// The kernel of the current context, loaded at its first use.
const char* find_kernel(const std::string& name, CUfunction* kernel) {
  static std::mutex mutex;
  static auto* modules = new std::map<CUcontext, CUmodule>;
  static auto* kernels = new std::map<std::pair<CUcontext, std::string>, CUfunction>;
  CUcontext context = nullptr;
  FRCNN_RETURN_IF_ERROR(driver().cuCtxGetCurrent(&context), "no current CUDA context");
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = kernels->find({context, name});
  if (found != kernels->end()) {
    *kernel = found->second;
    return nullptr;
  }
  if (modules->count(context) == 0) {
    std::vector<char> code;
    if (const char* error = find_code(&code)) return error;
    CUmodule module;
    FRCNN_RETURN_IF_ERROR(driver().cuModuleLoadData(&module, code.data()), "cannot load the GPU kernels");
    (*modules)[context] = module;
  }
  FRCNN_RETURN_IF_ERROR(driver().cuModuleGetFunction(kernel, (*modules)[context], name.c_str()),
                        "cannot find the GPU kernel " + name);
  (*kernels)[{context, name}] = *kernel;
  return nullptr;
}

}  // namespace

void set_gpu_code_folder(const std::string& folder) {
  const std::lock_guard<std::mutex> lock(folder_mutex);
  extra_folder() = folder;
}

bool has_gpu_code() {
  const std::string prefix = own_path().second + ".sm_", suffix = ".cubin";
  for (const std::string& folder : folders()) {
    DIR* files = opendir(folder.c_str());
    if (files == nullptr) continue;
    bool found = false;
    while (const dirent* file = readdir(files)) {
      const std::string name = file->d_name;
      found = found || (name.size() > prefix.size() + suffix.size() && name.compare(0, prefix.size(), prefix) == 0 &&
                        name.compare(name.size() - suffix.size(), suffix.size(), suffix) == 0);
    }
    closedir(files);
    if (found) return true;
  }
  return false;
}

const char* launch_kernel(const char* name, Grid grid, int threads, size_t shared_bytes, void** arguments,
                          void* stream) {
  if (!driver().error.empty()) return driver().error.c_str();
  if (grid.x > 0x7fffffff || grid.y > 0xffff || grid.z > 0xffff)
    return keep(std::string("the inputs are too large for the grid of the GPU kernel ") + name);
  CUfunction kernel;
  if (const char* error = find_kernel(name, &kernel)) return error;
  return message_of(
      driver().cuLaunchKernel(kernel, unsigned(grid.x), unsigned(grid.y), unsigned(grid.z), unsigned(threads), 1, 1,
                              unsigned(shared_bytes), static_cast<CUstream>(stream), arguments, nullptr),
      std::string("cannot launch the GPU kernel ") + name);
}

const char* set_bytes(void* to, unsigned char value, size_t bytes, void* stream) {
  if (!driver().error.empty()) return driver().error.c_str();
  if (bytes == 0) return nullptr;
  return message_of(driver().cuMemsetD8Async(CUdeviceptr(to), value, bytes, static_cast<CUstream>(stream)),
                    "cannot set GPU memory");
}

}  // namespace frcnn
