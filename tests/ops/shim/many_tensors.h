// Calls of the operations on many tensors at once, for main.cc.
#pragma once

#include "buffer.h"

namespace frcnn {

inline const char* run_update(CUstream stream) {
  // rule, variables, whether the results go to other memory; momentum, betas; scalars; sizes; rate factors; decays;
  // then weight, gradient and two states of each variable. Prints weight and states.
  const auto head = read_array<int32_t>(3);
  const auto constants = read_array<float>(3);
  const Buffer scalars = Buffer::from_stdin(sizeof(float) * kUpdateScalars);
  const auto sizes = read_array<int32_t>(head[1]);
  const auto rates = read_array<float>(head[1]), decays = read_array<float>(head[1]);
  std::vector<Buffer> buffers;
  std::vector<Updated> variables(head[1]);
  std::vector<size_t> results;
  const auto add = [&](size_t bytes, bool filled) {
    buffers.push_back(filled ? Buffer::from_stdin(bytes) : Buffer(bytes));
    return buffers.back().data<float>();
  };
  const auto slot = [&](size_t bytes) {
    Slot slot = {add(bytes, true)};
    slot.to = head[2] ? add(bytes, false) : const_cast<float*>(slot.from);
    results.push_back(buffers.size() - 1);
    return slot;
  };
  for (int32_t i = 0; i < head[1]; ++i) {
    const size_t bytes = sizeof(float) * sizes[i];
    const Slot weight = slot(bytes);
    const float* gradient = add(bytes, true);
    const Slot first = slot(bytes), second = slot(bytes);
    variables[i] = {sizes[i], gradient, weight, first, second, rates[i], decays[i]};
  }
  const char* error = launch_update({UpdateRule(head[0]),
                                     {constants[0], constants[1], constants[2]},
                                     scalars.data<UpdateScalars>(),
                                     variables.data(),
                                     head[1]},
                                    stream);
  check(cuStreamSynchronize(stream));
  for (size_t index : results) buffers[index].print();
  return error;
}

inline const char* run_global_norm(CUstream stream) {
  // number of tensors; sizes; then their values
  const auto head = read_array<int32_t>(1);
  const auto sizes = read_array<int32_t>(head[0]);
  std::vector<Buffer> buffers;
  std::vector<Normed> tensors;
  for (int32_t size : sizes) {
    buffers.push_back(Buffer::from_stdin(sizeof(float) * size));
    tensors.push_back({size, buffers.back().data<float>()});
  }
  const Buffer norm(sizeof(float)), workspace(global_norm_workspace_bytes(tensors.data(), head[0]));
  const char* error = launch_global_norm(tensors.data(), head[0], norm.data<float>(), workspace.data(), stream);
  check(cuStreamSynchronize(stream));
  norm.print();
  return error;
}

inline const char* run_channel_scale(CUstream stream) {
  // type of inputs, type of outputs, tensors; sizes; channels; then values and scale of each tensor
  const auto head = read_array<int32_t>(3);
  const auto sizes = read_array<int32_t>(head[2]), channels = read_array<int32_t>(head[2]);
  std::vector<Buffer> inputs, outputs;
  std::vector<ChannelScaled> tensors;
  for (int32_t i = 0; i < head[2]; ++i) {
    inputs.push_back(Buffer::from_stdin(sizes[i] * bytes_of(DType(head[0]))));
    const void* values = inputs.back().data();
    inputs.push_back(Buffer::from_stdin(sizeof(float) * channels[i]));
    outputs.emplace_back(sizes[i] * bytes_of(DType(head[1])));
    tensors.push_back({sizes[i], channels[i], values, inputs.back().data<float>(), outputs.back().data()});
  }
  const char* error = launch_channel_scale({DType(head[0]), DType(head[1]), tensors.data(), head[2]}, stream);
  check(cuStreamSynchronize(stream));
  for (const Buffer& output : outputs) output.print();
  return error;
}

}  // namespace frcnn
