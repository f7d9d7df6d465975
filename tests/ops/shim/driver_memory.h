// Functions of the CUDA driver API that the tests call besides those of the library.
#pragma once

#include "cuda_driver_api.h"

#define FRCNN_TEST_DRIVER_FUNCTIONS(F)                   \
  F(cuInit, (unsigned))                                  \
  F(cuDeviceGet, (CUdevice*, int))                       \
  F(cuDevicePrimaryCtxRetain, (CUcontext*, CUdevice))    \
  F(cuCtxSetCurrent, (CUcontext))                        \
  F(cuStreamCreate, (CUstream*, unsigned))               \
  F(cuStreamSynchronize, (CUstream))                     \
  F(cuMemAlloc_v2, (CUdeviceptr*, size_t))               \
  F(cuMemFree_v2, (CUdeviceptr))                         \
  F(cuMemcpyHtoD_v2, (CUdeviceptr, const void*, size_t)) \
  F(cuMemcpyDtoH_v2, (void*, CUdeviceptr, size_t))       \
  F(cuMemsetD8_v2, (CUdeviceptr, unsigned char, size_t))

#if !defined(FRCNN_CUDA_H)
#define FRCNN_DECLARE(name, parameters) extern "C" CUresult name parameters;
FRCNN_TEST_DRIVER_FUNCTIONS(FRCNN_DECLARE)
#undef FRCNN_DECLARE
#endif
