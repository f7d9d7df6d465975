// All GPU kernels as one translation unit.
#include "bias_relu.cu"
#include "channel_scale.cu"
#include "group_norm.cu"
#include "nms.cu"
#include "roi_align.cu"
#include "roi_align_gradient.cu"
#include "update.cu"
