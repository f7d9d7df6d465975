// Attributes and inputs of FrcnnUpdate and FrcnnGlobalNorm, which the CPU and GPU kernels share.
#pragma once

#include <string>
#include <vector>

#include "ops.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "update.h"

namespace frcnn {

// Variables of one input list, locked until the destruction. An update writes into the memory of a variable, or into
// new memory if a tensor that was read from the variable still uses it.
class LockedVariables {
 public:
  LockedVariables() = default;
  LockedVariables(const LockedVariables&) = delete;
  ~LockedVariables() {
    for (auto& variable : variables_) variable->mu()->unlock();
  }

  absl::Status lock(OpKernelContext* context, const char* name) {
    OpInputList handles;
    TF_RETURN_IF_ERROR(context->input_list(name, &handles));
    for (int i = 0; i < handles.size(); ++i) {
      tensorflow::core::RefCountPtr<tensorflow::Var> variable;
      TF_RETURN_IF_ERROR(
          tensorflow::LookupResource(context, handles[i].scalar<tensorflow::ResourceHandle>()(), &variable));
      variable->mu()->lock();
      variables_.push_back(std::move(variable));
    }
    return absl::OkStatus();
  }

  size_t size() const { return variables_.size(); }

  const Tensor& tensor(size_t i) const { return *variables_[i]->tensor(); }

  const float* read(size_t i) const { return tensor(i).flat<float>().data(); }

  absl::Status write(OpKernelContext* context, size_t i, Slot* slot) {
    Tensor* tensor = variables_[i]->tensor();
    slot->from = tensor->flat<float>().data();
    if (!tensor->RefCountIsOne()) {
      kept_.push_back(*tensor);  // its memory is read until the end of the operation
      Tensor fresh;
      TF_RETURN_IF_ERROR(context->allocate_temp(tensorflow::DT_FLOAT, tensor->shape(), &fresh));
      *tensor = fresh;
    }
    slot->to = tensor->flat<float>().data();
    return absl::OkStatus();
  }

 private:
  std::vector<tensorflow::core::RefCountPtr<tensorflow::Var>> variables_;
  std::vector<Tensor> kept_;
};

class UpdateOp : public tensorflow::OpKernel {
 public:
  explicit UpdateOp(OpKernelConstruction* context) : OpKernel(context) {
    std::string rule;
    OP_REQUIRES_OK(context, context->GetAttr("rule", &rule));
    OP_REQUIRES_OK(context, context->GetAttr("rate_factors", &rate_factors_));
    OP_REQUIRES_OK(context, context->GetAttr("decays", &decays_));
    OP_REQUIRES_OK(context, context->GetAttr("momentum", &constants_.momentum));
    OP_REQUIRES_OK(context, context->GetAttr("beta1", &constants_.beta1));
    OP_REQUIRES_OK(context, context->GetAttr("beta2", &constants_.beta2));
    rule_ = rule == "sgd"        ? UpdateRule::kSgd
            : rule == "momentum" ? UpdateRule::kMomentum
            : rule == "nesterov" ? UpdateRule::kNesterov
            : rule == "adamw"    ? UpdateRule::kAdamW
                                 : UpdateRule::kAverage;
  }

  void Compute(OpKernelContext* context) override {
    const Tensor* scalars;
    OpInputList gradients;
    OP_REQUIRES_OK(context, context->input_list("gradients", &gradients));
    OP_REQUIRES_OK(context, context->input("scalars", &scalars));
    // Always in this order, so that two operations cannot wait for each other.
    LockedVariables weights, first, second;
    OP_REQUIRES_OK(context, weights.lock(context, "weights"));
    OP_REQUIRES_OK(context, first.lock(context, "first"));
    OP_REQUIRES_OK(context, second.lock(context, "second"));
    const size_t count = weights.size();
    const bool averages = rule_ == UpdateRule::kAverage;
    OP_REQUIRES(context,
                size_t(gradients.size()) == (averages ? 0 : count) && rate_factors_.size() == count &&
                    decays_.size() == count && first.size() == (rule_ == UpdateRule::kSgd ? 0 : count) &&
                    second.size() == (rule_ == UpdateRule::kAdamW ? count : 0) &&
                    scalars->NumElements() == kUpdateScalars,
                InvalidArgument("update: the lists do not have what the rule needs for each of ", count, " weights"));
    std::vector<Updated> variables(count);
    for (size_t i = 0; i < count; ++i) {
      const TensorShape& shape = weights.tensor(i).shape();
      OP_REQUIRES(context,
                  (averages || gradients[i].shape() == shape) &&
                      (i >= first.size() || first.tensor(i).shape() == shape) &&
                      (i >= second.size() || second.tensor(i).shape() == shape),
                  InvalidArgument("update: tensors of variable ", i, " have other shapes than its weight ",
                                  shape.DebugString()));
      Updated& variable = variables[i];
      variable = {shape.num_elements(), averages ? nullptr : gradients[i].flat<float>().data()};
      variable.rate_factor = rate_factors_[i], variable.decay = decays_[i];
      if (averages) {
        variable.weight.from = weights.read(i);
      } else {
        OP_REQUIRES_OK(context, weights.write(context, i, &variable.weight));
      }
      if (first.size() > 0) OP_REQUIRES_OK(context, first.write(context, i, &variable.first));
      if (second.size() > 0) OP_REQUIRES_OK(context, second.write(context, i, &variable.second));
    }
    static_assert(sizeof(UpdateScalars) == sizeof(float) * kUpdateScalars, "the tensor's elements are the fields");
    run(context,
        {rule_, constants_, static_cast<const UpdateScalars*>(scalars->data()), variables.data(), int64_t(count)});
  }

 protected:
  virtual void run(OpKernelContext* context, const UpdateCall& call) const = 0;

 private:
  UpdateRule rule_;
  UpdateConstants constants_;
  std::vector<float> rate_factors_, decays_;
};

class GlobalNormOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    OpInputList tensors;
    OP_REQUIRES_OK(context, context->input_list("tensors", &tensors));
    std::vector<Normed> normed;
    for (const Tensor& tensor : tensors) normed.push_back({tensor.NumElements(), tensor.flat<float>().data()});
    Tensor* norm;
    OP_REQUIRES_OK(context, context->allocate_output(0, {}, &norm));
    run(context, normed.data(), int64_t(normed.size()), norm->flat<float>().data());
  }

 protected:
  virtual void run(OpKernelContext* context, const Normed* tensors, int64_t count, float* norm) const = 0;
};

}  // namespace frcnn
