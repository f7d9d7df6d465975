// The functions of the CUDA driver API that the project calls, declared here so that it builds without CUDA's headers.
// A test compiles them against <cuda.h> with FRCNN_CUDA_H.
#pragma once

#include <cstddef>

#if defined(FRCNN_CUDA_H)
#include <cuda.h>
#else
using CUresult = int;
using CUdevice = int;
using CUdevice_attribute = int;
using CUdeviceptr = unsigned long long;
using CUcontext = struct CUctx_st*;
using CUmodule = struct CUmod_st*;
using CUfunction = struct CUfunc_st*;
using CUstream = struct CUstream_st*;
constexpr CUdevice_attribute CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75;
constexpr CUdevice_attribute CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76;
#endif

#define FRCNN_DRIVER_FUNCTIONS(F)                                    \
  F(cuGetErrorString, (CUresult, const char**))                      \
  F(cuCtxGetCurrent, (CUcontext*))                                   \
  F(cuCtxGetDevice, (CUdevice*))                                     \
  F(cuDeviceGetAttribute, (int*, CUdevice_attribute, CUdevice))      \
  F(cuModuleLoadData, (CUmodule*, const void*))                      \
  F(cuModuleGetFunction, (CUfunction*, CUmodule, const char*))       \
  F(cuMemsetD8Async, (CUdeviceptr, unsigned char, size_t, CUstream)) \
  F(cuLaunchKernel,                                                  \
    (CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void**, void**))
