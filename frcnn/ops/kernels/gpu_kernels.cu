// All GPU kernels as one translation unit.
#include "nms.cu"
#include "roi_align.cu"
