#include "worker/model/checkpoint.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace outrider {

int64_t CheckpointTensor::num_elements() const {
  int64_t count = 1;
  for (const int64_t dim : shape) count *= dim;
  return count;
}

const CheckpointTensor* Checkpoint::Find(absl::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : it->second;
}

absl::StatusOr<const CheckpointTensor*> Checkpoint::FindFor(const ModelConfig& config, TensorRole role,
                                                            int layer) const {
  const std::string name = NameOf(role, layer);
  const CheckpointTensor* const tensor = Find(name);
  if (tensor == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": tensor '", name, "' is missing; download or convert the model again"));
  }
  const std::vector<int64_t> shape = ShapeOf(role, config);
  if (tensor->shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat(tensor->file, ": tensor '", name, "' has shape ",
                                                   ShapeString(tensor->shape), "; the configuration asks for ",
                                                   ShapeString(shape)));
  }
  return tensor;
}

std::string Checkpoint::ShapeString(const std::vector<int64_t>& shape) const {
  std::vector<int64_t> shown = shape;
  if (shapes_contiguous_first_) std::reverse(shown.begin(), shown.end());
  return absl::StrCat("[", absl::StrJoin(shown, ", "), "]");
}

void Checkpoint::IndexTensors() {
  index_.reserve(tensors_.size());
  for (const CheckpointTensor& tensor : tensors_) index_[tensor.name] = &tensor;
}

}  // namespace outrider
