// Launches group norm and its gradient on a GPU.
#include <algorithm>
#include <initializer_list>

#include "cuda_driver.h"
#include "cuda_launch.h"

namespace frcnn {
namespace {

constexpr const char* kTooLarge =
    "the inputs of group norm are too large for the GPU kernels (limits: 2^30 pixels, channels or groups of all "
    "images, 2^21 images)";

bool too_large(const GroupNormShape& shape) {
  constexpr int64_t kMost = int64_t{1} << 30;
  return shape.pixels > kMost || shape.channels > kMost || shape.batch * kMaxChunks > kMost ||
         shape.batch * shape.groups > kMost;
}

// The inputs of the call and these buffers.
int width_of(const GroupNormCall& call, std::initializer_list<const void*> buffers) {
  const int64_t channels = call.shape.channels;
  return std::min(access_width(call.dtype, channels, {call.inputs, call.gamma, call.beta}),
                  access_width(call.dtype, channels, buffers));
}

GroupNormPlan make_plan(const GroupNormCall& call) {
  const GroupNormShape& shape = call.shape;
  GroupNormPlan plan = {int(shape.batch), int(shape.pixels), int(shape.channels), int(shape.groups)};
  plan.relu = call.relu;
  // Independent of the buffers' alignment: the workspace is allocated without them.
  const int64_t packets = blocks(shape.channels, packet_width(call.dtype));
  const int64_t rows = std::max<int64_t>(1, FRCNN_THREADS / packets);
  const int64_t chunks = std::clamp<int64_t>(shape.pixels / (rows * kChunkPixelsPerThread), 1, kMaxChunks);
  plan.chunk_pixels = int(blocks(shape.pixels, chunks));
  plan.chunks = int(blocks(shape.pixels, plan.chunk_pixels));
  // Each thread adds up some 16 chunks of a channel.
  const int64_t threads = shape.channels / shape.groups * std::max(1, plan.chunks / 16);
  plan.groups_per_block = int(std::clamp<int64_t>(FRCNN_THREADS / threads, 1, shape.groups));
  return plan;
}

// The launches of a call.
class Launcher {
 public:
  Launcher(const GroupNormCall& call, std::initializer_list<const void*> buffers, void* workspace, void* stream)
      : plan(make_plan(call)),
        partial(static_cast<float*>(workspace)),
        terms(partial + int64_t(plan.batch) * plan.chunks * 2 * plan.channels),
        dtype_(dtype_name(call.dtype)),
        width_(width_of(call, buffers)),
        stream_(stream) {}

  // A pass over all elements.
  template <class Signature, class... Arguments>
  const char* pass(const char* kernel, bool sums, Arguments... arguments) const {
    const Grid grid = {int64_t(plan.batch) * plan.chunks, blocks(plan.channels / width_, FRCNN_THREADS)};
    const size_t shared = sums ? sizeof(float) * 2 * width_ * FRCNN_THREADS : 0;
    return Kernel<Signature>{kernel + dtype_ + "_x" + std::to_string(width_)}.launch(grid, FRCNN_THREADS, shared,
                                                                                     stream_, plan, arguments...);
  }

  // A reduction of the chunks by blocks of groups, and `more` blocks.
  template <class Signature, class... Arguments>
  const char* reduce(const std::string& kernel, int64_t more, Arguments... arguments) const {
    const Grid grid = {plan.batch * blocks(plan.groups, plan.groups_per_block) + more};
    const size_t shared = sizeof(double) * 2 * FRCNN_THREADS;
    return Kernel<Signature>{kernel}.launch(grid, FRCNN_THREADS, shared, stream_, plan, arguments...);
  }

  const std::string& dtype() const { return dtype_; }

  const GroupNormPlan plan;
  float *const partial, *const terms;

 private:
  const std::string dtype_;
  const int width_;
  void* const stream_;
};

}  // namespace

int64_t group_norm_workspace_bytes(const GroupNormCall& call) {
  if (call.shape.batch == 0 || too_large(call.shape)) return 0;
  const GroupNormPlan plan = make_plan(call);
  return int64_t(sizeof(float)) * plan.batch * 2 * (int64_t(plan.chunks) * plan.channels + plan.groups);
}

const char* launch_group_norm(const GroupNormCall& call, float epsilon, void* outputs, float* mean, float* rstd,
                              void* workspace, void* stream) {
  if (call.shape.batch == 0) return nullptr;
  if (too_large(call.shape)) return kTooLarge;
  const Launcher launcher(call, {outputs}, workspace, stream);
  if (const char* error = launcher.pass<NormMomentsKernel>("frcnn_norm_moments_", true, call.inputs, launcher.partial))
    return error;
  if (const char* error = launcher.reduce<NormStatisticsKernel>("frcnn_norm_statistics_" + launcher.dtype(), 0, epsilon,
                                                                call.inputs, launcher.partial, mean, rstd))
    return error;
  return launcher.pass<NormApplyKernel>("frcnn_norm_apply_", false, call.inputs, call.gamma, call.beta, mean, rstd,
                                        outputs);
}

const char* launch_group_norm_gradient(const GroupNormCall& call, const void* upstream, const float* mean,
                                       const float* rstd, void* gradient, float* gamma_gradient, float* beta_gradient,
                                       void* workspace, void* stream) {
  if (call.shape.batch == 0) {
    const size_t bytes = sizeof(float) * call.shape.channels;
    const char* error = set_bytes(gamma_gradient, 0, bytes, stream);
    return error != nullptr ? error : set_bytes(beta_gradient, 0, bytes, stream);
  }
  if (too_large(call.shape)) return kTooLarge;
  const Launcher launcher(call, {upstream, gradient}, workspace, stream);
  if (const char* error =
          launcher.pass<NormGradientSumsKernel>("frcnn_norm_gradient_sums_", true, upstream, call.inputs, call.gamma,
                                                call.beta, mean, rstd, launcher.partial))
    return error;
  if (const char* error = launcher.reduce<NormTotalsKernel>(
          "frcnn_norm_totals", blocks(call.shape.channels, kAffineChannels), launcher.partial, call.gamma, mean, rstd,
          launcher.terms, gamma_gradient, beta_gradient))
    return error;
  return launcher.pass<NormGradientKernel>("frcnn_norm_gradient_", false, upstream, call.inputs, call.gamma, call.beta,
                                           mean, rstd, launcher.terms, gradient);
}

}  // namespace frcnn
